"""Making room in a folder for a new run without losing the old one."""

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from probediff.runs import folder as layout
from probediff.runs.by_step import step_of
from probediff.runs.configuration import CONFIG, HISTORY

#: What a new run in the same folder must not find.
_PARTS_OF_RUN = (
    *(
        CONFIG,
        HISTORY,
        layout.RECORDS,
        layout.CATALOGUE,
        layout.DATA,
        layout.WIRING,
        layout.ERROR,
        layout.WANDB,
        layout.WANDB_ID,
    ),
    *(layout.CHECKPOINTS, layout.MODEL_CHECKPOINTS, layout.SAMPLES, layout.PICTURES, layout.PROBED),
)


def set_aside(run: Path, parts: Iterable[str] = _PARTS_OF_RUN) -> Path:
    """Move everything of the run in a folder out of the way of a new one; returns the folder that keeps it."""
    aside = _make_folder(run)
    for part in parts:
        if (run / part).exists():
            (run / part).rename(aside / part)
    return aside


def set_aside_after(run: Path, step: int) -> Path | None:
    """The same for the files of steps after ``step``, with a copy of all records; None where there are none."""
    parts = (run / part for part in (layout.CHECKPOINTS, layout.SAMPLES, layout.PICTURES))
    later = [path for part in parts for path in part.glob("step=*") if (step_of(path) or 0) > step]
    if not later:
        return None
    aside = _make_folder(run)
    shutil.copy2(run / layout.RECORDS, aside)
    for path in later:
        (aside / path.parent.name).mkdir(exist_ok=True)
        path.rename(aside / path.parent.name / path.name)
    return aside


def _make_folder(run: Path) -> Path:
    aside = run / layout.SET_ASIDE / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    aside.mkdir(parents=True)
    return aside
