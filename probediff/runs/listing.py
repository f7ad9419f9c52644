"""What a run folder tells about its run, without importing torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from probediff.runs.lock import is_held

#: ``training?`` is concluded from file times, where a run keeps no lock.
State = Literal["training", "training?", "finished", "failed", "stopped", "unreadable"]

#: The record that closes a run (``probediff.runs.folder.FINISHED``, which would import torch).
FINISHED = "run"
_NOT_RUNS = frozenset({"probes", "checkpoints", "samples", "pictures", "wandb"})
#: A run without a lock may still train if a file changed within so many seconds, or so many checkpoint intervals.
_QUIET_SEC, _QUIET_INTERVALS = 120.0, 3.0


@dataclass(frozen=True)
class RunInfo:
    """One local run.

    Attributes:
        path: its folder.
        state: what it does.
        why: why it failed or cannot be read; empty otherwise.
        step: last step that a record or a checkpoint knows, None before the first one.
        max_steps: the last step that its configuration asks for.
        seed: its seed.
        steps_per_second: speed of training before the last probes.
        changed_at: time of the newest file, seconds since 1970.
        values: newest values by probe and quantity.
        lineage: sweep, trial and runs that it continues, where recorded.
    """

    path: Path
    state: State
    why: str = ""
    step: int | None = None
    max_steps: int | None = None
    seed: int | None = None
    steps_per_second: float | None = None
    changed_at: float = 0.0
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs at or below ``folder``, in the order of their names; probes' folders inside them do not count.

    Raises:
        ValueError: no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise ValueError(f"DIR must be a folder with runs, got {folder}: no such folder")
    found = list(_below(folder))
    if not found:
        raise ValueError(f"DIR must be a folder with runs, got {folder}: no folder with records.jsonl in it")
    return found


def _below(folder: Path) -> Iterator[Path]:
    if (folder / "records.jsonl").is_file():
        yield folder
        return
    try:
        parts = sorted(part for part in folder.iterdir() if part.is_dir() and not part.is_symlink())
    except PermissionError:
        return
    for part in parts:
        if part.name not in _NOT_RUNS and not part.name.startswith("."):
            yield from _below(part)


def read_run(path: Path, now: float) -> RunInfo:
    """Everything about the run in ``path``; ``now`` is the time in seconds since 1970."""
    changed_at = _newest(path)
    try:
        records = _records(path / "records.jsonl")
        config = _mapping(path / "config.yaml")
        lineage = _mapping(path / "lineage.json")
    except (ValueError, OSError, yaml.YAMLError) as error:
        return RunInfo(path, "unreadable", str(error).splitlines()[0], changed_at=changed_at)
    state, why = _state(path, records, now - changed_at)
    steps = [record["step"] for record in records] + _checkpoint_steps(path)
    values: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["step"]):
        if record.get("values"):
            values[record["probe"]] = record["values"]
    trainer = config.get("trainer")
    return RunInfo(
        path=path,
        state=state,
        why=why,
        step=max(steps, default=None),
        max_steps=_positive(trainer.get("max_steps")) if isinstance(trainer, dict) else None,
        seed=config.get("seed_everything"),
        steps_per_second=values.get("training", {}).get("steps_per_second"),
        changed_at=changed_at,
        values=values,
        lineage=lineage,
    )


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _records(path: Path) -> list[dict[str, Any]]:
    """Records in the order of writing; an incomplete last line, left by a kill, does not count."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(r, dict) and isinstance(r.get("step"), int) and "probe" in r for r in records):
        raise ValueError(f"{path} has a line without step or probe")
    return records


def _mapping(path: Path) -> dict[str, Any]:
    """A file of YAML or JSON; empty where there is none."""
    if not path.is_file():
        return {}
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _state(path: Path, records: list[dict[str, Any]], quiet_sec: float) -> tuple[State, str]:
    held = is_held(path)
    if held:
        return "training", ""
    if any(record["probe"] == FINISHED for record in records):
        return "finished", ""
    if why := _failure(path):
        return "failed", why
    if held is None and quiet_sec < max(_QUIET_SEC, _QUIET_INTERVALS * _checkpoint_interval(path)):
        return "training?", ""
    return "stopped", ""


def _failure(path: Path) -> str:
    """The last line of the traceback, unless the run was started again since: that writes its configuration anew."""
    error, config = path / "error.txt", path / "config.yaml"
    if not error.is_file() or (config.is_file() and config.stat().st_mtime > error.stat().st_mtime):
        return ""
    lines = [line for line in error.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    # Continued messages are indented or plain text; the line with the exception's name says most.
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (named or lines or ["error.txt is empty"])[-1].strip()


def _checkpoints(path: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"step=(\d+)\.ckpt", file.name), file) for file in path.glob("checkpoints/*.ckpt"))
    return {int(match[1]): file for match, file in matches if match}


def _checkpoint_steps(path: Path) -> list[int]:
    return list(_checkpoints(path))


def _checkpoint_interval(path: Path) -> float:
    """Seconds between the last two checkpoints."""
    times = sorted(file.stat().st_mtime for file in _checkpoints(path).values())
    return times[-1] - times[-2] if len(times) > 1 else 0.0


def _newest(path: Path) -> float:
    """When a file of the run was last written; W&B's file, where there is one, grows all the time."""
    patterns = ("*", "checkpoints/*", "samples/*", "pictures/*", "wandb/*/*.wandb")
    times = []
    for pattern in patterns:
        for file in path.glob(pattern):
            try:
                times.append(file.stat().st_mtime)
            except OSError:
                continue  # Renamed by the run in the meantime.
    return max(times, default=path.stat().st_mtime)
