"""Exact denoisers of the runs' images: which ones stand beside the runs' own figures, and which cannot."""

from pathlib import Path

from probediff.report.groups import Comparison, Member, members
from probediff.report.parts import Section
from probediff.report.records import ProbeRecords, differing_in_words
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table

_WHAT = (
    "Exact denoisers know a distribution instead of having learnt one: the training images, shrunk towards their mean "
    "and smoothed by a Gaussian of their own covariance. At the bandwidth h = 0 that is the training set itself, at "
    "h = 1 the Gaussian with its mean and covariance; for every h mean and covariance are the same. A light band in a "
    "figure holds what exact denoisers from the smallest h that was probed to the largest give, its thin lines are "
    "single ones: what a curve inside of it shows, a known distribution shows without any training."
)
_HOW_TO = (
    "No exact denoiser stands beside the curves. `probediff probe exact:RUN,h=0.4` records one with the run's own "
    "settings; several with h from 0 (the training set) to 1 (its Gaussian) make a band."
)
_HEADER = ("folder", "h or kind", "images M", "N", "DDIM steps", "convention", "clip", "stands beside the run's own")


def exact_denoisers(comparison: Comparison) -> Section:
    """The exact denoisers below each run, with how they were probed."""
    name, title = "exact-denoisers", "Exact denoisers"
    folders = [(run, records) for run in comparison.runs for records in run.extra if records.is_exact]
    missing = [] if any(members(group) for group in comparison.groups) else [_HOW_TO]
    if all(r.kind == "gaussian" and not (r.differing_from(run.own) or r.other_options(run.own)) for run, r in folders):
        return Section(name, title, missing=tuple(missing))
    # A lone Gaussian is no member of a family, and stands in the figures all the same.
    standing = {records.folder.path for run in comparison.runs if (records := run.like_own("gaussian"))}
    standing |= {
        records.folder.path
        for group in comparison.groups
        for run in group.runs
        for member in members(group)
        if (records := run.like_own(member.kind))
    }
    rows = tuple(_row(run, records, standing) for run, records in folders)
    caption = "Exact denoisers that were probed; where one does not stand beside the run's own figures, why."
    others = sum(not str(row[-1]).startswith("yes") for row in rows)
    if others:
        missing.append(
            f"{others} of {len(rows)} folders of exact denoisers do not stand in the figures: only what was made as "
            f"the run's own records can, for the values depend on N and on the steps, and one of each h; the table "
            f"says what differs."
        )
    return Section(name, title, (_WHAT,), (), (Table("exact_denoisers", caption, _HEADER, rows),), tuple(missing))


def _row(run: Run, records: ProbeRecords, standing: set[Path]) -> tuple[Cell, ...]:
    member = Member.of(records)
    words = differing_in_words(records.differing_from(run.own))
    if not words and records.folder.path not in standing:
        words = "another one of this h stands there"
    without = (
        f"{probe} ({differing_in_words(options)})"
        for probe, options in records.other_options(run.own).items()
        if not words
    )
    words = words or ", ".join(("yes", *(f"but for {probe}" for probe in without)))
    how = (records.convention(key) for key in ("num_samples", "num_steps", "convention", "clip"))
    place = "/".join([run.name, *records.folder.path.parts[-2:]])
    return (place, member.label, member.num_images or None, *map(_in_a_word, how), words)


def _in_a_word(value: object) -> Cell:
    return None if value is None else {"True": "yes", "False": "no"}.get(str(value), str(value))
