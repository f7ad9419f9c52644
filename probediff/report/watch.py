"""Keeping a report current while runs train."""

import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from probediff.exceptions import describe_failure
from probediff.report.groups import Comparison, group_runs
from probediff.report.page import Written, write_report
from probediff.report.parts import Section
from probediff.report.sections import SECTIONS
from probediff.report.sources import read_runs
from probediff.runs.folder import INVERSION_METHODS, RECORDS

Signature = tuple[tuple[str, int, int], ...]


def build(paths: list[Path], out: Path, group_by: str | None, refresh_sec: int | None = None) -> tuple[Written, bool]:
    """Read, measure and write once.

    Returns:
        What was written, and whether all runs are finished.

    Raises:
        ValueError: nothing to report on, or a folder that cannot be read or written.
    """
    runs = read_runs(paths)
    if not any(run.own.records for run in runs):
        raise ValueError(f"RUN must have records, got {runs[0].path}, whose {RECORDS} is empty so far")
    # A sweep holds runs that have not begun; they have nothing to show yet.
    comparison = group_runs([run for run in runs if run.own.records], group_by)
    finished = all(run.is_finished for run in runs)
    made = [_make(section, comparison) for section in SECTIONS]
    # Of probes from outside there are none in most runs, and nothing is missing.
    sections = [section for section in made if section.name != "outside-probes" or section.text]
    written = write_report(comparison, sections, out, None if finished else refresh_sec)
    return written, finished


def _make(section: Callable[[Comparison], Section], comparison: Comparison) -> Section:
    """A section, or, where records are of a kind that it was not made for, why there is none: the others stay."""
    try:
        return section(comparison)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        name = section.__name__.replace("_", "-")
        words = f"{name} is left out, for these records do not fit it: {describe_failure(error)}"
        warnings.warn(words, stacklevel=2)
        return Section(name, (section.__doc__ or name).splitlines()[0].rstrip("."), missing=(words,))


def watch(
    paths: list[Path],
    out: Path,
    group_by: str | None,
    interval_sec: int,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Write the report again whenever records change, until all runs are finished.

    Args:
        paths: as for ``build``.
        out: as for ``build``.
        group_by: as for ``build``.
        interval_sec: how often to look, and how often the page reloads itself.
        sleep: waits so many seconds.

    Raises:
        ValueError: at the first time only, as ``build``; later the page stays as it is and the next change is tried.
    """
    written, finished = build(paths, out, group_by, interval_sec)
    print(f"{written.page} is kept current every {interval_sec} s until the runs end; stop with Ctrl-C", flush=True)
    seen: Signature | None = signature(paths)
    while not finished:
        sleep(interval_sec)
        now = signature(paths)
        if now == seen:
            continue
        try:
            written, finished = build(paths, out, group_by, interval_sec)
            seen = now
        except (ValueError, OSError) as error:
            print(f"probediff report: not rebuilt: {error}", file=sys.stderr, flush=True)
            seen = None


def signature(paths: list[Path]) -> Signature:
    """Name, size and time of every file of records below the folders."""
    files = []
    for file in sorted(f for p in paths for f in (*p.rglob(RECORDS), *p.rglob(INVERSION_METHODS))):
        with suppress(OSError):
            stat = file.stat()
            files.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(files)
