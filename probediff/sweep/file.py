"""Reading a sweep file, the same one that ``wandb sweep`` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probediff.files import check_plain_file

#: How W&B chooses trials.
METHODS = ("grid", "random", "bayes")

#: What W&B's own search does and this machine does not.
_NOT_LOCAL = {
    "early_terminate": "trials run to their end here; leave it out, or use `wandb agent`",
    "controller": "there is no server to ask; leave it out, or use `wandb agent`",
}


@dataclass(frozen=True)
class SweepFile:
    """A sweep as its file describes it.

    Attributes:
        name: the file's name without its suffix.
        method: how trials follow from the parameters, one of `METHODS`; only a grid runs here.
        command: what starts a trial, with W&B's macros.
        parameters: swept keys of the configuration with their values or distributions.
        run_cap: the most trials there are.
        program: what ``${program}`` stands for.
    """

    name: str
    method: str
    command: tuple[str, ...]
    parameters: dict[str, dict[str, Any]]
    run_cap: int | None = None
    program: str | None = None


def read_sweep(path: str | Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        ValueError: it is no sweep, or one that only W&B's server can run; the words say what to change.
    """
    path = Path(path)
    try:
        check_plain_file(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} must be a sweep file in YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must be a sweep file with method, command and parameters, got {type(content).__name__}"
        )
    if content.get("method") not in METHODS:
        raise ValueError(f"{path}: method must be one of {', '.join(METHODS)}, got {content.get('method')!r}")
    for key, reason in _NOT_LOCAL.items():
        if key in content:
            raise ValueError(f"{path}: {key} cannot be had without W&B: {reason}")
    return SweepFile(
        path.stem,
        content["method"],
        _command(path, content),
        _parameters(path, content),
        _run_cap(path, content),
        content.get("program"),
    )


def _command(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    command = content.get("command")
    if not isinstance(command, list) or not command:
        raise ValueError(
            f"{path}: command must be a list such as "
            f"[${{env}}, python, -m, probediff, fit, --config, FILE, --resume, auto, ${{args}}], got {command!r}"
        )
    return tuple(str(part) for part in command)


def _parameters(path: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"{path}: parameters must name at least one key of the configuration, got {parameters!r}")
    for key, entry in parameters.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: parameters.{key} must hold value, values or a distribution, got {entry!r}")
        if "parameters" in entry:
            raise ValueError(
                f"{path}: parameters.{key} must not be nested, for it would reach no object; write dotted keys, "
                f"such as {key}.{next(iter(entry['parameters']), 'KEY')}"
            )
    return {str(key): dict(entry) for key, entry in parameters.items()}


def _run_cap(path: Path, content: dict[str, Any]) -> int | None:
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"{path}: run_cap must be at least 1, got {cap!r}")
    return cap
