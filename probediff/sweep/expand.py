"""From a sweep file to trials and their command lines, in W&B's order and words."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from probediff.sweep.file import SweepFile

#: The settings of one trial: key of the configuration -> value.
Values = dict[str, Any]

_MACRO = re.compile(r"\$\{(.+)\}")
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def expand(sweep: SweepFile) -> list[Values]:
    """The values of all trials in the order of W&B: keys sorted, the last one fastest.

    A random search draws from a generator of its own with a fixed seed: the same file gives the same trials.

    Raises:
        ValueError: a parameter has no values, or a distribution that cannot be had here.
    """
    keys = sorted(sweep.parameters)
    if sweep.method == "grid":
        choices = [_grid_values(key, sweep.parameters[key]) for key in keys]
        trials = [dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*choices)]
        return trials[: sweep.run_cap]
    rng = random.Random(0)
    draws = {key: _sampler(key, sweep.parameters[key]) for key in keys}
    return [{key: draw(rng) for key, draw in draws.items()} for _ in range(sweep.run_cap or 0)]


def _grid_values(key: str, entry: dict[str, Any]) -> list[Any]:
    if "value" in entry:
        return [entry["value"]]
    if "probabilities" not in entry and isinstance(entry.get("values"), list) and entry["values"]:
        return list(entry["values"])
    kind = _distribution(entry)
    if kind == "int_uniform":
        return list(range(entry["min"], entry["max"] + 1))
    raise ValueError(f"parameters.{key} must have value, values, or whole min and max in a grid, got {entry}")


def _distribution(entry: dict[str, Any]) -> str:
    """W&B's name of a distribution; what it is by default when only limits are given."""
    if "distribution" in entry:
        return str(entry["distribution"])
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    limits = [entry.get("min"), entry.get("max")]
    if all(isinstance(limit, int) and not isinstance(limit, bool) for limit in limits):
        return "int_uniform"
    return "uniform" if all(isinstance(limit, int | float) for limit in limits) else "none"


Draw = Callable[[random.Random], Any]


def _sampler(key: str, entry: dict[str, Any]) -> Draw:
    samplers: dict[str, Callable[[], Draw]] = {
        "constant": lambda: lambda _: entry["value"],
        "categorical": lambda: lambda rng: rng.choices(entry["values"], entry.get("probabilities"))[0],
        "int_uniform": lambda: lambda rng: rng.randint(entry["min"], entry["max"]),
        "uniform": lambda: _uniform(entry["min"], entry["max"]),
        "q_uniform": lambda: _rounded(_uniform(entry["min"], entry["max"]), entry.get("q", 1)),
        "log_uniform_values": lambda: _log_uniform(entry["min"], entry["max"]),
        "q_log_uniform_values": lambda: _rounded(_log_uniform(entry["min"], entry["max"]), entry.get("q", 1)),
        "normal": lambda: lambda rng: rng.gauss(entry.get("mu", 0.0), entry.get("sigma", 1.0)),
        "log_normal": lambda: lambda rng: rng.lognormvariate(entry.get("mu", 0.0), entry.get("sigma", 1.0)),
    }
    kind = _distribution(entry)
    if kind not in samplers:
        raise ValueError(f"parameters.{key}: distribution must be one of {', '.join(samplers)} here, got {kind}")
    try:
        return samplers[kind]()
    except KeyError as error:
        raise ValueError(f"parameters.{key}: distribution {kind} needs {error.args[0]}, got {entry}") from error


def _uniform(low: float, high: float) -> Draw:
    return lambda rng: rng.uniform(low, high)


def _log_uniform(low: float, high: float) -> Draw:
    if not 0 < low <= high:
        raise ValueError(f"min and max of a logarithmic distribution must be positive and ordered, got {low}, {high}")
    return lambda rng: math.exp(rng.uniform(math.log(low), math.log(high)))


def _rounded(draw: Draw, quantum: float) -> Draw:
    return lambda rng: round(draw(rng) / quantum) * quantum


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
