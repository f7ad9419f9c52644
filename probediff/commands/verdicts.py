"""Each statement of the two papers, There and Back Again (P1) and First-step inference in diffusion models
learns image de-whitening (P2), beside what runs say, and what exact denoisers of their images say that nobody has
trained: agrees, disagrees or undecided, by one rule, with number, uncertainty and null. Where data are missing, it
tells the command that records them.

Examples:
  probediff verdicts runs/cifar10/RUN
  probediff verdicts runs/seed0 runs/seed10 runs/seed42 --out verdicts     the mean over seeds
  probediff verdicts runs/sweep --group_by model.learning_rate
"""

import argparse
import shutil
from pathlib import Path

from probediff.commands.runner import add_runs, light_parser, run_command
from probediff.files import to_json, whole_file
from probediff.report.groups import group_runs
from probediff.report.sources import read_runs
from probediff.report.verdicts.judging import GroupVerdicts, judge_all
from probediff.report.verdicts.tables import RULE, all_claims, claim_table, exact_table, to_plain, verdict_table
from probediff.report.verdicts.text import to_text

#: A terminal that says no width, such as a file, gets lines of so many letters; a very wide one no longer ones.
_WIDTH, _WIDEST = 120, 160


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = light_parser("verdicts", __doc__)
    add_runs(parser)
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="also write verdicts.md, .csv and .json there; made if it is not there",
    )
    return parser


def verdicts(arguments: list[str]) -> int:
    """``probediff verdicts``: returns the exit status, which does not depend on the verdicts."""
    return run_command(build_parser(), arguments, _verdicts)


def _verdicts(options: argparse.Namespace) -> None:
    runs = read_runs([path.expanduser() for path in options.runs])
    # A sweep holds runs that have not begun; alone they are undecided.
    comparison = group_runs([run for run in runs if run.own.records] or runs, options.group_by)
    judged = judge_all(comparison)
    print(to_text(judged, min(shutil.get_terminal_size((_WIDTH, 0)).columns, _WIDEST)))
    if options.out is not None:
        out = options.out.expanduser()
        _write(out, judged)
        print(f"\nverdicts.md, .csv and .json lie in {out}")


def _write(out: Path, judged: list[GroupVerdicts]) -> None:
    """Each file whole or not at all."""
    contents = {
        "md": _markdown(judged),
        "csv": all_claims(judged).csv(),
        "json": to_json(to_plain(judged), indent=1) + "\n",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in contents.items():
            with whole_file(out / f"verdicts.{suffix}", sync=False) as file:
                file.write(text.encode())
    except OSError as error:
        raise ValueError(f"--out must be a folder that can be written to, got {out}: {error}") from error


def _markdown(judged: list[GroupVerdicts]) -> str:
    parts = ["# Verdicts on the papers' statements\n", f"{RULE}\n"]
    for index, of_group in enumerate(judged, start=1):
        tables = (verdict_table(index, of_group), exact_table(index, of_group), claim_table(index, of_group))
        parts += [table.markdown() for table in tables if table is not None]
    return "\n".join(parts)
