"""Local runs at a glance: which of them train, ended or failed, how far they are, and what they measured last."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from probediff.runs.configuration import CONFIG, HISTORY
from probediff.runs.folder import ERROR, FINISHED, PARTS, RECORDS, RunFolder
from probediff.runs.grouping import max_steps_of, seed_of
from probediff.runs.lock import is_held

#: ``training?`` is concluded from file times, where a run keeps no lock.
State = Literal["training", "training?", "finished", "failed", "stopped", "unreadable"]

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
    paths = list(folders_below(folder, has_records))
    if not paths:
        raise ValueError(f"DIR must be a folder with runs, got {folder}: no folder with {RECORDS} in it")
    return paths


def has_records(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RECORDS).is_file()


def folders_below(folder: Path, is_wanted: Callable[[Path], bool]) -> Iterator[Path]:
    """The folder itself or else the nearest wanted ones below it, by name; no links, and nothing inside of runs."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            if is_wanted(current):
                yield current
                continue
            parts = sorted(part for part in current.iterdir() if part.is_dir() and not part.is_symlink())
        except OSError as error:
            warnings.warn(f"{current} is left out, for it cannot be read: {error.strerror}", stacklevel=2)
            continue
        waiting += (part for part in reversed(parts) if part.name not in PARTS and not part.name.startswith("."))


def distinct_names(folders: Sequence[Path]) -> dict[Path, str]:
    """The last part of each path, with as many parts before it as it takes to tell all apart."""
    for depth in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = {folder: "/".join(folder.parts[-depth:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            break
    return names


def read_run(path: Path, now: float) -> RunInfo:
    """Everything about the run in ``path``; ``now`` is the time in seconds since 1970."""
    folder, changed_at = RunFolder(path), RunFolder(path).last_change()
    try:
        records, config, lineage, _ = folder.records(), folder.config(), folder.lineage(), folder.catalogue()
    except (ValueError, OSError) as error:
        return RunInfo(path, "unreadable", str(error).splitlines()[0], changed_at=changed_at)
    state, why = _state(folder, records, now - changed_at)
    if not why and not config:
        why = f"{CONFIG} is missing"
    values: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["step"]):
        if record.get("values"):
            values[record["probe"]] = record["values"]
    return RunInfo(
        path=path,
        state=state,
        why=why,
        step=max([*(record["step"] for record in records), *folder.checkpoints()], default=None),
        max_steps=max_steps_of(config),
        seed=seed_of(config),
        steps_per_second=values.get("training", {}).get("steps_per_second"),
        changed_at=changed_at,
        values=values,
        lineage=lineage,
    )


def _state(folder: RunFolder, records: Sequence[dict[str, Any]], quiet_sec: float) -> tuple[State, str]:
    held = is_held(folder.path)
    if held:
        return "training", ""
    if any(record["probe"] == FINISHED for record in records):
        return "finished", ""
    if why := _failure(folder):
        return "failed", why
    times = sorted(path.stat().st_mtime for path in folder.checkpoints().values())
    interval_sec = times[-1] - times[-2] if len(times) > 1 else 0.0
    if held is None and quiet_sec < max(_QUIET_SEC, _QUIET_INTERVALS * interval_sec):
        return "training?", ""
    return "stopped", ""


def _failure(folder: RunFolder) -> str:
    """The last line of the traceback, unless the run was started again since: that writes what it is, or a change."""
    error, starts = folder.path / ERROR, (folder.path / CONFIG, folder.path / HISTORY)
    if not error.is_file() or any(p.is_file() and p.stat().st_mtime > error.stat().st_mtime for p in starts):
        return ""
    lines = [line for line in error.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    # Continued messages are indented or plain text; the line with the exception's name says most.
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (named or lines or [f"{ERROR} is empty"])[-1].strip()
