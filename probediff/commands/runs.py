"""The command ``probediff runs``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probediff.runs.listing import RunInfo, find_runs, read_run

_DESCRIPTION = """List the runs in DIR and below: what they do, how far they are, their speed, and what their
last probes found.

states:
  training    its process lives
  training?   a file changed lately, and the run keeps no lock that would tell for certain
  finished    it came to its end
  failed      it ended with an error, which is shown; the traceback is in its error.txt
  stopped     it was killed or stopped by a signal; go on with: probediff fit ... --run_dir RUN --resume auto
  unreadable  its files are damaged"""

#: Last values that are shown: heading, probe, quantity.
_VALUES = (
    ("loss", "training", "loss_mean"),
    ("angle at image", "inversion_angles", "at_image_mean_deg"),
    ("image->noise", "assignment_accuracy", "image_to_noise"),
    ("noise->image", "assignment_accuracy", "noise_to_image"),
    ("latent corr", "pixel_correlation", "latent"),
)


def runs(arguments: Sequence[str]) -> int:
    """``probediff runs``: returns the exit status; an error that the user can cure is printed in one line."""
    options = _parser().parse_args(arguments)
    now = time.time()
    try:
        folder = options.dir.expanduser()
        found = [read_run(path, now) for path in find_runs(folder)]
    except (ValueError, OSError) as error:
        print(f"probediff runs: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps([_plain(run) for run in found], indent=2) if options.json else format_runs(found, folder, now))
    return 0


def _plain(run: RunInfo) -> dict[str, Any]:
    return asdict(run) | {"path": str(run.path)}


def format_runs(found: Sequence[RunInfo], folder: Path, now: float) -> str:
    """The runs as a table, and below it what needs a sentence: why a run failed, and where it comes from."""
    shown = [column for column in _VALUES if any(_value(run, *column[1:]) is not None for run in found)]
    header = ["run", "state", "step", "seed", "steps/s", *(heading for heading, _, _ in shown), "changed"]
    rows = [
        [
            _name(run, folder),
            run.state,
            _progress(run),
            _cell(run.seed),
            _cell(run.steps_per_second),
            *(_cell(_value(run, probe, quantity)) for _, probe, quantity in shown),
            _ago(now - run.changed_at),
        ]
        for run in found
    ]
    notes = [f"{_name(run, folder)}: {note}" for run in found for note in _notes(run)]
    return "\n".join([_table(header, rows), *(["", *notes] if notes else [])])


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Columns under a header, texts to the left and numbers to the right."""
    lines = [header, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    to_left = 2
    padded = (
        [cell.ljust(width) if k < to_left else cell.rjust(width) for k, (cell, width) in enumerate(found)]
        for found in (zip(line, widths, strict=True) for line in lines)
    )
    first, *rest = ("  ".join(line).rstrip() for line in padded)
    return "\n".join([first, "  ".join("-" * width for width in widths), *rest])


def _name(run: RunInfo, folder: Path) -> str:
    return str(run.path.relative_to(folder)) if run.path != folder else run.path.resolve().name


def _progress(run: RunInfo) -> str:
    if run.step is None:
        return "-"
    return f"{run.step}/{run.max_steps}" if run.max_steps else str(run.step)


def _value(run: RunInfo, probe: str, quantity: str) -> Any:
    return run.values.get(probe, {}).get(quantity)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _notes(run: RunInfo) -> list[str]:
    notes = [run.why] if run.why else []
    if run.lineage:
        notes.append(", ".join(f"{key} {_listed(value)}" for key, value in run.lineage.items() if value))
    return notes


def _listed(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probediff runs", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dir", metavar="DIR", type=Path, nargs="?", default=Path("runs"), help="folder with runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser
