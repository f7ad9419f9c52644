"""Reading a sweep file, the same one that ``wandb sweep`` takes."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probediff.sweep.parameters import check_parameter, near

#: How W&B chooses trials.
METHODS = ("grid", "random", "bayes")
#: What hands a trial's values to its command.
_HANDING_OVER = re.compile(r"\$\{args(_\w+)?\}")
_COMMAND = "[${env}, python, -m, probediff, fit, --config, FILE, --resume, auto, ${args}]"
_KEYS = (
    *("method", "command", "parameters", "metric", "early_terminate", "run_cap", "program", "name", "description"),
    *("project", "entity", "controller", "scheduler", "job", "image_uri"),
)

#: What W&B's own search does and this machine does not.
_NOT_LOCAL = {
    "early_terminate": "trials run to their end here; leave it out, or use `wandb agent`",
    "controller": "there is no server to ask; leave it out, or use `wandb agent`",
}
#: More than any file needs; a few lines of YAML can hold references to billions.
_MOST_PARTS = 100_000


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
        project: the project of W&B that the file names.
    """

    name: str
    method: str
    command: tuple[str, ...]
    parameters: dict[str, dict[str, Any]]
    run_cap: int | None = None
    program: str | None = None
    project: str | None = None


def read_sweep(path: str | Path, runs_here: bool = False) -> SweepFile:
    """Read a sweep file.

    Args:
        path: of the file.
        runs_here: whether the trials are to run on this machine, without W&B's server.

    Raises:
        ValueError: it is no sweep, or one that only W&B's server can run; the words say what to change.
    """
    path = Path(path)
    content = _read_yaml(path)
    try:
        for key in content:
            if key not in _KEYS and (meant := near(key, _KEYS)):
                raise ValueError(f"{key} must be a key that W&B knows{meant}")
        if content.get("method") not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {content.get('method')!r}")
        for key, reason in _NOT_LOCAL.items():
            if runs_here and key in content:
                raise ValueError(f"{key} needs W&B: {reason}")
        _check_search(content)
        program, project = content.get("program"), content.get("project")
        if not isinstance(program, str | None):
            raise ValueError(f"program must be a path, got {program!r}")
        if not isinstance(project, str | None):
            raise ValueError(f"project must be a name, got {project!r}; put it in quotes")
        command, parameters = _command(content), _parameters(content)
        _check_fixed(command, parameters)
        return SweepFile(path.stem, content["method"], command, parameters, _run_cap(content), program, project)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        words = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(words)) < len(words):
            raise ValueError(f"{max(words, key=words.count)} must stand once, got it twice below one key")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"FILE must be a sweep file in YAML, got {path}, which is {'no file' if path.exists() else 'not there'}"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        _check_size(content)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{path} must be a sweep file in YAML: {words}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must be a sweep file with method, command and parameters, got {type(content).__name__}"
        )
    return content


def _check_size(content: Any) -> None:
    waiting, count = [content], 0
    while waiting:
        part, count = waiting.pop(), count + 1
        if count > _MOST_PARTS:
            raise ValueError(f"it must have at most {_MOST_PARTS} parts; references may repeat them")
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _check_search(content: dict[str, Any]) -> None:
    """What W&B's search needs beside the parameters."""
    stop = content.get("early_terminate")
    metric = content.get("metric")
    if metric is None and (content["method"] == "bayes" or stop is not None):
        what = "method bayes" if content["method"] == "bayes" else "early_terminate"
        raise ValueError(f"{what} needs a metric, such as metric: {{name: train/loss, goal: minimize}}")
    if metric is not None:
        named = isinstance(metric, dict) and isinstance(metric.get("name"), str) and metric["name"]
        if not named or metric.get("goal", "minimize") not in ("minimize", "maximize"):
            raise ValueError(f"metric must have a name, and minimize or maximize for its goal, got {metric!r}")
    if stop is None:
        return
    if not isinstance(stop, dict) or stop.get("type") != "hyperband":
        raise ValueError(f"early_terminate must be such as {{type: hyperband, min_iter: 3}}, got {stop!r}")
    if not {"min_iter", "max_iter"} & set(stop):
        raise ValueError(f"early_terminate: hyperband needs min_iter, or max_iter and s, got {stop!r}")
    for key in ("min_iter", "max_iter", "s", "eta"):
        if key in stop and (type(stop[key]) is not int or stop[key] < 1 + (key == "eta")):
            raise ValueError(f"early_terminate.{key} must be at least {1 + (key == 'eta')}, got {stop[key]!r}")


def _command(content: dict[str, Any]) -> tuple[str, ...]:
    command = content.get("command")
    if not isinstance(command, list) or not command:
        raise ValueError(f"command must be a list such as {_COMMAND}, got {command!r}")
    for part in command:
        if isinstance(part, bool) or not isinstance(part, str | int | float) or part == "" or "\0" in str(part):
            raise ValueError(f"command must be a list of words, got {part!r} in it; quote it")
    words = tuple(str(part) for part in command)
    if not any(_HANDING_OVER.fullmatch(word) for word in words):
        raise ValueError(f"command must hold ${{args}}, without which no trial gets its values, got {list(words)}")
    return words


def _parameters(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"parameters must name at least one key of the configuration, got {parameters!r}")
    for key, entry in parameters.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
            raise ValueError(f"parameters must be dotted keys of the configuration, got {key!r}")
        check_parameter(f"parameters.{key}", entry)
    return {key: dict(entry) for key, entry in parameters.items()}


def _check_fixed(command: tuple[str, ...], parameters: dict[str, dict[str, Any]]) -> None:
    last = max(k for k, word in enumerate(command) if _HANDING_OVER.fullmatch(word))
    for word in command[last:]:
        if (key := word.partition("=")[0].removeprefix("--")) in parameters:
            raise ValueError(f"command must not fix {key}, which is swept, after ${{args}}; take {word} out")


def _run_cap(content: dict[str, Any]) -> int | None:
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"run_cap must be at least 1, got {cap!r}")
    return cap
