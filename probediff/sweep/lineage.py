"""A trial's own folder: found by its values, held by one process at a time, with the starts that it goes on from.

W&B cannot resume a run inside a sweep: a trial that is started again is a new run to it. Here the folder belongs to the
trial's values, so that the new run finds the checkpoints of the old one, and ``lineage.json`` says so.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import yaml

from probediff.files import write_json
from probediff.runs.folder import LINEAGE, RunFolder
from probediff.runs.lock import claim, is_held

#: How ``probediff sweep --local`` tells a process which trial it is: ``Trial`` in JSON.
TRIAL_VARIABLE = "PROBEDIFF_TRIAL"
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Trial:
    """One start of a trial.

    Attributes:
        sweep: id of the sweep.
        trial: id of this start; under an agent, the id of the W&B run.
        values: the swept keys and their values.
        folder: the run folder, where it is settled already.
    """

    sweep: str
    trial: str
    values: dict[str, Any]
    folder: str | None = None

    def to_json(self) -> str:
        """For ``TRIAL_VARIABLE``."""
        return json.dumps(asdict(self))


def trial_name(values: Mapping[str, Any]) -> str:
    """A folder name that says the values: ``model.schedule=cosine,seed_everything=10``.

    A digest follows where the words had to be shortened or changed.
    """
    words = ",".join(f"{key}={values[key]}" for key in sorted(values))
    name = re.sub(r"[^\w.,=+-]", "_", words)[:_LONGEST_NAME]
    # File systems count bytes: a letter may have four, and a log has a longer name than its trial.
    if name == words and len(name.encode()) <= 2 * _LONGEST_NAME:
        return name
    text = json.dumps(values, sort_keys=True, default=str)
    return f"{name.encode()[:60].decode(errors='ignore')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def claim_trial_folder(owning: ExitStack, parent: Path = Path("runs")) -> Path | None:
    """The run folder of the trial that this process is, ours as long as ``owning`` is open; None outside of sweeps.

    Under ``wandb agent`` it is ``parent/sweep-<sweep id>/<values>``; the same values drawn again while the first trial
    is running, or after it has finished, get a folder of their own, ``<values>-2``.

    Raises:
        ValueError: the folder cannot be made, or another process trains in it.
    """
    trial = current_trial()
    if trial is None:
        return None
    if trial.folder:
        folder = Path(trial.folder)
        owning.enter_context(claim(folder, "--run_dir"))
        return folder
    return _find(trial, parent / f"sweep-{trial.sweep}", owning)


def record_trial(folder: Path) -> None:
    """Write ``lineage.json`` of the trial that this process is; nothing outside of sweeps."""
    if (trial := current_trial()) is not None:
        _record(trial, folder)


def current_trial() -> Trial | None:
    """Which trial this process is, by ``TRIAL_VARIABLE`` or by what ``wandb agent`` sets."""
    if trial := os.environ.get(TRIAL_VARIABLE):
        return Trial(**json.loads(trial))
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return Trial(sweep, run, _agent_values() or {"run": run}) if sweep and run else None


def _agent_values() -> dict[str, Any]:
    """What the agent wrote down for this run."""
    path = Path(os.environ.get("WANDB_SWEEP_PARAM_PATH", ""))
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: entry["value"] for key, entry in content.items() if isinstance(entry, dict) and "value" in entry}


def _find(trial: Trial, parent: Path, owning: ExitStack) -> Path:
    """The folder where an earlier start of the trial stopped, or else a new one; claimed."""
    first = parent / trial_name(trial.values)
    existing = takewhile(Path.exists, _numbered(first))
    mine = (folder for folder in existing if trial.trial in _starts(RunFolder(folder).lineage()))
    free = (folder for folder in _numbered(first) if not RunFolder(folder).is_finished() and not is_held(folder))
    for folder in mine:
        owning.enter_context(claim(folder, "--run_dir"))
        return folder
    while True:
        folder = next(free)
        try:
            owning.enter_context(claim(folder, "--run_dir"))
            return folder
        except ValueError:
            if not is_held(folder):  # taken meanwhile, or no folder that can be made
                raise


def _numbered(first: Path) -> Iterator[Path]:
    """``first``, ``first-2``, ``first-3``, ..."""
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in count(2))


def _starts(lineage: Mapping[str, Any]) -> list[str]:
    return [*lineage["continues"], lineage["trial"]] if lineage else []


def _record(trial: Trial, folder: Path) -> None:
    """Write ``lineage.json``; earlier starts count when they left a checkpoint to go on from.

    ``id`` stays the same when the trial is started again; ``trial`` is the last start, and ``continues`` holds the
    earlier ones that it goes on from, oldest first.
    """
    earlier = _starts(RunFolder(folder).lineage()) if RunFolder(folder).checkpoints() else []
    lineage = {
        "id": f"{trial.sweep}/{folder.name}",
        "sweep": trial.sweep,
        "trial": trial.trial,
        "continues": [start for start in dict.fromkeys(earlier) if start != trial.trial],
        "values": trial.values,
    }
    write_json(folder / LINEAGE, lineage)
