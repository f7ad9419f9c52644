"""One line of the records: what it must hold, so that nobody who reads it has to ask."""

import json
import math
from typing import Any


class Record(dict[str, Any]):
    """A line of the records; ``values`` and ``conventions`` that are missing are empty."""

    def __missing__(self, key: str) -> dict[str, Any]:
        if key not in ("values", "conventions"):
            raise KeyError(key)
        return {}


def read_record(line: str) -> Record:
    """A record, whose parts have the types that everybody relies on.

    Raises:
        ValueError: it is no JSON, or a part of it has another type.
    """
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError(f"a record must be an object, got {str(content)[:80]}")
    record = Record(content)
    step, values = record.get("step"), record["values"]
    if isinstance(step, bool) or not isinstance(step, int) or step < 0 or not isinstance(record.get("probe"), str):
        raise ValueError(f"a record needs 'step' and 'probe', got {line[:80]}")
    if not (isinstance(values, dict) and isinstance(record["conventions"], dict)):
        raise ValueError(f"values and conventions of a record must be objects, got {line[:80]}")
    if wrong := [key for key, value in values.items() if not _is_number(value)]:
        raise ValueError(f"values of a record must be numbers or null, got {wrong[0]}: {str(values[wrong[0]])[:40]}")
    if not isinstance(record.get("error", ""), str):
        raise ValueError(f"the error of a record must be text, got {line[:80]}")
    return record


def _is_number(value: Any) -> bool:
    if value is None or isinstance(value, float):
        return True
    # One too large for a float would end whoever computes with it.
    return isinstance(value, int) and abs(value) < 2**1000 and math.isfinite(float(value))
