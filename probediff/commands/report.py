"""Redraw the tables and figures of P1 (There and Back Again) from the records of runs, beside the null,
the Gaussian denoiser and the published values. Works on a run that is still training or was killed: what is missing is
said on the page.

Examples:
  probediff report runs/cifar10 --out report
  probediff report runs/seed0 runs/seed10 runs/seed42 --out report      mean and spread over seeds
  probediff report runs/sweep --group_by model.learning_rate --out report
  probediff report runs/cifar10 --out report --watch                    while it trains

OUT/index.html is one page that needs no network; OUT/tables and OUT/figures hold the same for papers.
"""

import argparse
import importlib.util
from pathlib import Path

from probediff.commands.runner import add_runs, light_parser, run_command
from probediff.runs.folder import CHECKPOINTS, PICTURES, PROBED, SAMPLES
from probediff.runs.listing import has_records
from probediff.runs.lock import claim

_DEFAULT_WATCH_SEC = 30
#: Parts of a run that are no place for a page.
_TAKEN = (CHECKPOINTS, PICTURES, PROBED, SAMPLES)


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = light_parser("report", __doc__)
    add_runs(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="where to write; made if it is not there"
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        nargs="?",
        const=_DEFAULT_WATCH_SEC,
        help=f"write again whenever records change, looking every SECONDS (default: {_DEFAULT_WATCH_SEC}), until all "
        f"runs are finished",
    )
    return parser


def _seconds(text: str) -> int:
    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of seconds, 1..999999, got {text!r}")
    return int(text)


def report(arguments: list[str]) -> int:
    """``probediff report``: returns the exit status."""
    return run_command(build_parser(), arguments, _report)


def _report(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("figures need matplotlib: pip install matplotlib")
    paths, out = [path.expanduser() for path in options.runs], options.out.expanduser()
    if has_records(out) or (has_records(out.parent) and out.name in _TAKEN):
        raise ValueError(f"--out must be a folder of its own, got {out}, which is a run's; try {out}-report")
    with claim(out, "--out"):
        _write(options, paths, out)


def _write(options: argparse.Namespace, paths: list[Path], out: Path) -> None:
    from probediff.report.watch import build, watch

    if options.watch is None:
        written, _ = build(paths, out, options.group_by)
        counts = f"{written.num_figures} figures, {written.num_tables} tables"
        print(f"{counts}. The page: {written.page} ({written.num_bytes / 1e6:.1f} MB)")
        return
    try:
        watch(paths, out, options.group_by, options.watch)
        end = "All runs are finished"
    except KeyboardInterrupt:
        end = "\nStopped"
    print(f"{end}. The page: {out / 'index.html'}")
