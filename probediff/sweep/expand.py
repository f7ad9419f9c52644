"""From a sweep file to trials and their command lines, in W&B's order and words."""

import json
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from probediff.sweep.file import SweepFile

#: The settings of one trial: key of the configuration -> value.
Values = dict[str, Any]

_MACRO = re.compile(r"\$\{(.+)\}")
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
#: Trials of a plan; more would take this machine for years, and its memory for their names.
MOST_TRIALS = 10_000


def count_trials(sweep: SweepFile) -> int | None:
    """How many trials there are, without making them; None where only W&B's server knows.

    Raises:
        ValueError: a parameter of a grid has no values to go through.
    """
    if sweep.method != "grid":
        return sweep.run_cap
    # W&B walks these as well, by its own steps and draws.
    if any("probabilities" in entry or entry.get("distribution") == "q_uniform" for entry in sweep.parameters.values()):
        return sweep.run_cap
    number = math.prod(_size(_grid_values(key, entry)) for key, entry in sweep.parameters.items())
    return number if sweep.run_cap is None else min(number, sweep.run_cap)


def expand(sweep: SweepFile) -> list[Values]:
    """The values of all trials of a grid in the order of W&B: keys sorted, the last one fastest.

    Raises:
        ValueError: another method, a parameter without values, or too many trials.
    """
    if sweep.method != "grid":
        raise ValueError(
            f"method must be grid to run here, got {sweep.method!r}; W&B draws such trials: "
            f"give the command without --local for its commands"
        )
    keys = sorted(sweep.parameters)
    values = [_grid_values(key, sweep.parameters[key]) for key in keys]
    count = count_trials(sweep) or 0
    if count > MOST_TRIALS:
        raise ValueError(
            f"parameters must give at most {MOST_TRIALS} trials to run here, got {count}; take fewer values, or add "
            f"run_cap: {MOST_TRIALS}"
        )
    return [_trial(keys, values, number) for number in range(count)]


def _trial(keys: Sequence[str], values: Sequence[Sequence[Any]], number: int) -> Values:
    """Trial ``number`` of a grid: the digits of the number, the last key's the lowest one."""
    chosen = []
    for of_key in reversed(values):
        number, digit = divmod(number, _size(of_key))
        chosen.append(of_key[digit])
    return dict(zip(keys, reversed(chosen), strict=True))


def _size(values: Sequence[Any]) -> int:
    """How many there are; ``len`` ends at 2^63."""
    return values.stop - values.start if isinstance(values, range) else len(values)


def _grid_values(key: str, entry: dict[str, Any]) -> Sequence[Any]:
    if "value" in entry:
        return [entry["value"]]
    if "probabilities" not in entry and isinstance(entry.get("values"), list) and entry["values"]:
        return list(entry["values"])
    limits = entry.get("min"), entry.get("max")
    if entry.get("distribution", "int_uniform") == "int_uniform" and all(type(limit) is int for limit in limits):
        return range(entry["min"], entry["max"] + 1)
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
