"""List the runs in DIR and below: what they do, how far they are, their speed, and what their
last probes found.

states:
  training    its process lives
  training?   a file changed lately, and the run keeps no lock that would tell for certain
  finished    it came to its end
  failed      it ended with an error, which is shown; the traceback is in its error.txt
  stopped     it was killed or stopped by a signal; go on with: probediff fit ... --run_dir RUN --resume auto
  unreadable  its files are damaged

Examples:
  probediff runs
  probediff runs runs/sweep-seeds --json
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probediff.commands.runner import light_parser, run_command
from probediff.display.text import printable
from probediff.runs.folder import RunFolder
from probediff.runs.listing import RunInfo, find_runs, read_run
from probediff.runs.summary import format_table


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = light_parser("runs", __doc__)
    parser.add_argument(
        "dir", metavar="DIR", type=Path, nargs="?", default=Path("runs"), help="folder with runs (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def runs(arguments: Sequence[str]) -> int:
    """``probediff runs``: returns the exit status."""
    return run_command(build_parser(), arguments, _runs)


def _runs(options: argparse.Namespace) -> None:
    folder, now = options.dir.expanduser(), time.time()
    infos = [read_run(path, now) for path in find_runs(folder)]
    if options.json:
        print(json.dumps([asdict(run) | {"path": str(run.path)} for run in infos], indent=2))
    else:
        print(format_runs(infos, folder, now))


def format_runs(infos: Sequence[RunInfo], folder: Path, now: float) -> str:
    """The runs as a table, and below it what needs a sentence: why a run failed, and where it comes from."""
    names = [str(run.path.relative_to(folder)) if run.path != folder else run.path.resolve().name for run in infos]
    readable = [RunFolder(run.path) for run in infos if run.state != "unreadable"]
    catalogue = {key: probe for folder in readable for key, probe in folder.catalogue().items()}
    listed = {
        column.listed_as: [run.values.get(probe.key, {}).get(column.key) for run in infos]
        for probe in catalogue.values()
        for column in probe.columns
        if column.listed_as
    }
    columns = {
        "run": names,
        "state": [run.state for run in infos],
        "step": [_progress(run) for run in infos],
        "seed": [run.seed for run in infos],
        "steps/s": [run.steps_per_second for run in infos],
        **{heading: values for heading, values in listed.items() if any(value is not None for value in values)},
        "changed": [_ago(now - run.changed_at) for run in infos],
    }
    table = format_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)], num_left=2)
    notes = [printable(f"{name}: {note}") for name, run in zip(names, infos, strict=True) for note in _notes(run)]
    return "\n".join([table, *(["", *notes] if notes else [])])


def _progress(run: RunInfo) -> str | int | None:
    return run.step if run.step is None or run.max_steps is None else f"{run.step}/{run.max_steps}"


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _notes(run: RunInfo) -> list[str]:
    lineage = ", ".join(f"{key} {_join(value)}" for key, value in run.lineage.items() if value)
    return [note for note in (run.why, lineage) if note]


def _join(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)
