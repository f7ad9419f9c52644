"""From a sweep file to trials and their command lines, in W&B's order and words."""

import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import Any

from probediff.sweep.file import SweepFile

#: The settings of one trial: key of the configuration -> value.
Values = dict[str, Any]

_MACRO = re.compile(r"\$\{(.+)\}")
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def expand(sweep: SweepFile) -> list[Values]:
    """The values of all trials of a grid in the order of W&B: keys sorted, the last one fastest.

    Raises:
        ValueError: another method, or a parameter without values.
    """
    if sweep.method != "grid":
        raise ValueError(
            f"method must be grid to run here, got {sweep.method!r}; W&B draws such trials: "
            f"wandb sweep --project probediff FILE, then wandb agent"
        )
    keys = sorted(sweep.parameters)
    trials = itertools.product(*(_grid_values(key, sweep.parameters[key]) for key in keys))
    return [dict(zip(keys, values, strict=True)) for values in itertools.islice(trials, sweep.run_cap)]


def _grid_values(key: str, entry: dict[str, Any]) -> list[Any]:
    if "value" in entry:
        return [entry["value"]]
    if "probabilities" not in entry and isinstance(entry.get("values"), list) and entry["values"]:
        return list(entry["values"])
    limits = entry.get("min"), entry.get("max")
    if entry.get("distribution", "int_uniform") == "int_uniform" and all(type(limit) is int for limit in limits):
        return list(range(entry["min"], entry["max"] + 1))
    raise ValueError(f"parameters.{key} must have value, values, or whole min and max in a grid, got {entry}")


def trial_command(sweep: SweepFile, values: Values) -> list[str]:
    """The command line of a trial, as ``wandb agent`` makes it.

    Raises:
        ValueError: the command has a macro that is not replaced here.
    """
    macros: dict[str, Sequence[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [sweep.program] if sweep.program else [],
        "args": [f"--{key}={value}" for key, value in values.items()],
        "args_no_equals": [part for key, value in values.items() for part in (f"--{key}", str(value))],
        "args_json": [json.dumps(values)],
    }
    command: list[str] = []
    for part in sweep.command:
        part = _ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[1]), part)
        macro = _MACRO.fullmatch(part)
        if macro is None:
            command.append(part)
        elif macro[1] in macros:
            command += macros[macro[1]]
        else:
            raise ValueError(f"command: {part} must be one of {', '.join(macros)} to run here; use ${{args}}")
    return command
