"""One line of the records: what it must hold, so that nobody who reads it has to ask."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from probediff.files import open_plain_file, parse_json

#: Key of the standard errors of some of a record's values.
STANDARD_ERRORS = "standard_errors"
#: What the keys that loggers have for them begin with: no curve of ``probe/...`` gets another one beside it.
ERROR_PREFIX = "standard_error"
#: Names of probes and of quantities are parts of names of files, and of lines for people.
_NAME = re.compile(r"(?!\.)[^/\x00-\x1f\x7f-\x9f]{1,200}")
#: A training takes fewer steps; larger numbers are no floats.
_MOST_STEPS = 10**15
_LONGEST_LINE = 2**24
#: One too large for a float would end whoever computes with it.
_LARGEST = 2**1000
#: Conventions that are computed with, and how many numbers each is.
_COUNTS = {"num_steps": 1, "num_samples": 1, "num_train_timesteps": 1, "image_shape": 3}


class Record(dict[str, Any]):
    """A line of the records; ``values``, ``standard_errors`` and ``conventions`` that are missing are empty."""

    def __missing__(self, key: str) -> dict[str, Any]:
        if key not in ("values", STANDARD_ERRORS, "conventions"):
            raise KeyError(key)
        return {}


def read_record(line: str) -> Record:
    """A record, whose parts have the types that everybody relies on.

    Raises:
        ValueError: it is no JSON, or a part of it has another type.
    """
    content = parse_json(line)
    if not isinstance(content, dict):
        raise ValueError(f"a record must be an object, got {str(content)[:80]}")
    record = Record(content)
    step, probe, values, conventions = record.get("step"), record.get("probe"), record["values"], record["conventions"]
    errors = record[STANDARD_ERRORS]
    if not (_is_count(step) and isinstance(probe, str)):
        raise ValueError(f"a record needs 'step' and 'probe', got {line[:80]}")
    if not all(isinstance(part, dict) for part in (values, errors, conventions)):
        raise ValueError(f"values, {STANDARD_ERRORS} and conventions of a record must be objects, got {line[:80]}")
    if wrong := [name for name in (probe, *values) if not _NAME.fullmatch(name)]:
        raise ValueError(f"names of a record must be words without '/', got {wrong[0][:40]!r}")
    if wrong := [key for key, value in values.items() if not _is_number(value)]:
        raise ValueError(f"values of a record must be numbers or null, got {wrong[0]}: {str(values[wrong[0]])[:40]}")
    if wrong := [key for key, error in errors.items() if not _is_error(error)]:
        raise ValueError(
            f"{STANDARD_ERRORS} of a record must be numbers from 0 on, or null, got {wrong[0][:40]!r}: "
            f"{str(errors[wrong[0]])[:40]}"
        )
    if wrong := [key for key, length in _COUNTS.items() if not _are_counts(conventions.get(key), length)]:
        raise ValueError(f"{wrong[0]} of a record must be whole, got {str(conventions[wrong[0]])[:40]!r}")
    if not isinstance(record.get("error", ""), str):
        raise ValueError(f"the error of a record must be text, got {line[:80]}")
    return record


def read_records(path: Path) -> list[Record]:
    """All whole lines of a file of records; none where there is no file.

    Raises:
        ValueError: a line is damaged, which is said with its number, or it is no file.
    """
    try:
        file = open_plain_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}; restore it, or remove it") from error
    records = []
    # A line at a time: the file of a stranger may have no end.
    with file:
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), 1):
            if not line.strip() or (not line.endswith(b"\n") and len(line) < _LONGEST_LINE):
                continue
            try:
                records.append(read_record(line.decode().strip()))
            except ValueError as error:
                cure = "restore the file, or remove that line"
                raise ValueError(f"{path} cannot be read: {error} (line {number}); {cure}") from error
    return records


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_STEPS


def _are_counts(value: Any, length: int) -> bool:
    """Whether it is a count, or so many; or nothing, as in records of other things."""
    parts = value if length > 1 and isinstance(value, list) and len(value) == length else [value]
    return value is None or (len(parts) == length and all(map(_is_count, parts)))


def _is_error(value: Any) -> bool:
    return _is_number(value) and (value is None or value >= 0)


def _is_number(value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    return value is None or isinstance(value, float) or is_whole
