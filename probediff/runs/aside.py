"""Making room in a folder for a new run without losing the old one."""

from datetime import UTC, datetime
from pathlib import Path

from probediff.runs import folder as layout
from probediff.runs.configuration import CONFIG, HISTORY

#: What a new run in the same folder must not find.
_PARTS_OF_RUN = (
    *(CONFIG, HISTORY, layout.RECORDS, layout.CATALOGUE, layout.DATA, layout.ERROR, layout.WANDB, layout.WANDB_ID),
    *(layout.CHECKPOINTS, layout.SAMPLES, layout.PICTURES, layout.PROBED),
)


def set_aside(run: Path) -> Path:
    """Move everything of the run in a folder out of the way of a new one; returns the folder that keeps it."""
    aside = run / layout.SET_ASIDE / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    aside.mkdir(parents=True)
    for part in _PARTS_OF_RUN:
        if (run / part).exists():
            (run / part).rename(aside / part)
    return aside
