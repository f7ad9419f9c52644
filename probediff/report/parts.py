"""What a page is made of, and the sentences about how a number came about."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probediff.report.groups import Comparison
from probediff.report.tables import Table, html_text
from probediff.runs.conditions import CONDITIONS
from probediff.runs.definitions import DEFINITIONS, definitions_of, find_redefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Figure:
    """A figure with its words.

    Attributes:
        name: stem of its files.
        drawing: what is drawn.
        caption: what it shows and how it was computed.
        alt: what a person who cannot see it should know.
        is_picture: whether it shows pixels of images (rather than lines), which are enlarged without smoothing.
    """

    name: str
    drawing: Drawing
    caption: str
    alt: str
    is_picture: bool = False


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        name: anchor.
        title: heading.
        text: paragraphs.
        figures: in order.
        tables: in order.
        missing: what is not there, one sentence each.
        details: tables that start folded.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()
    details: tuple[Table, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but sentences."""
        return not (self.figures or self.tables or self.details)


_OMITTED = frozenset({"batch_size"})
#: How the sentence about a number names conventions; others stand under their own names.
_SPELLED = {
    "num_samples": "N = {}",
    "num_steps": "{} DDIM steps",
    "convention": "convention {}",
    "clip": "clipping while sampling {}",
    "clip_inversion": "clipping while inverting {}",
    "inversion": "inversion method {}",
    "weights": "{}",
    "ema_rate": "EMA rate {}",
    "noise_seed": "noise seed {}",
    "schedule": "{} schedule",
    "num_train_timesteps": "T = {}",
    "image_shape": "images of {}",
    "samples_of_step": "samples of step {}",
}
_SPELLED_VALUES = {
    "clip": {"True": "on", "False": "off"},
    "clip_inversion": {"True": "on", "False": "off"},
    "weights": {"ema": "averaged weights", "raw": "raw weights"},
}
_MOST_NAMES = 3


def how_computed(comparison: Comparison, probe: str, kind: str = "own") -> str:
    """N, steps, convention and the rest behind the records of one probe; says which records disagree."""
    folders = {run.name: records for run in comparison.runs if (records := run.like_own(kind))}
    by_key: dict[str, dict[str, list[str]]] = {}
    for name, records in folders.items():
        for conventions in records.conventions(probe):
            for key, value in _with_definitions(probe, conventions, comparison.keys(probe, kind)).items():
                names = by_key.setdefault(key, {}).setdefault(_plain(value), [])
                names += [name] if name not in names else []
    shown = {key: names for key, names in by_key.items() if key not in _OMITTED}
    # Where it was computed is news only where it differs.
    same = {key: next(iter(by_value)) for key, by_value in shown.items() if len(by_value) == 1}
    agreed = {key: value for key, value in same.items() if key not in CONDITIONS}
    if not agreed:
        return "The records do not say how this was computed."
    differing = "; ".join(
        f"{key} " + ", ".join(f"{v} ({_some(_whole_groups(comparison, names))})" for v, names in by_value.items())
        for key, by_value in shown.items()
        if len(by_value) > 1
    )
    text = f"Computed with {_sentence(agreed)}."
    return text + (f" The records disagree on: {differing}." if differing else "")


def _with_definitions(probe: str, conventions: dict[str, Any], recorded: list[str]) -> dict[str, Any]:
    """The conventions with one entry for each quantity that an earlier version computed otherwise."""
    others = {key: value for key, value in conventions.items() if key != DEFINITIONS}
    how = definitions_of(probe) | find_redefined(probe, conventions)
    return others | {f"{key}:": words for key, words in how.items() if key in recorded}


def tell_redefined(
    comparison: Comparison, probe: str, kinds: Iterable[str] = ("own",), shown: Collection[str] | None = None
) -> str:
    """A sentence about the quantities of a probe that some of the records have by another definition; often empty.

    Args:
        comparison: the groups.
        probe: whose values.
        kinds: folders of records.
        shown: the keys that are meant; all by default.
    """
    keys: dict[str, None] = {}
    for kind in kinds:
        recorded = [key for key in comparison.keys(probe, kind) if shown is None or key in shown]
        for records in filter(None, (run.like_own(kind) for run in comparison.runs)):
            found = (find_redefined(probe, conventions) for conventions in records.conventions(probe))
            keys |= {key: None for names in found for key in names if key in recorded}
    return f" Of an earlier definition, in some records at least: {', '.join(keys)}." if keys else ""


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("method", value))
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _whole_groups(comparison: Comparison, names: list[str]) -> list[str]:
    """Names of runs, those of a whole group under its label."""
    whole = [group for group in comparison.groups if {run.name for run in group.runs} <= set(names)]
    covered = {run.name for group in whole for run in group.runs}
    return [group.label for group in whole] + [name for name in names if name not in covered]


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _sentence(agreed: dict[str, str]) -> str:
    spelled = [key for key in _SPELLED if key in agreed and (key, agreed[key]) != ("ema_rate", "None")]
    parts = [_SPELLED[key].format(_SPELLED_VALUES.get(key, {}).get(agreed[key], agreed[key])) for key in spelled]
    parts += [f"{key} {value}" for key, value in agreed.items() if key not in _SPELLED and value != "None"]
    return ", ".join(parts)


def missing_from(comparison: Comparison, probe: str, kind: str = "own") -> tuple[str, ...]:
    """Which runs have no record of a probe, and where a probe said that it had no result."""
    where = "" if kind == "own" else f" among what `probediff probe` made as {kind}"
    folders = [(run.name, run.like_own(kind)) for run in comparison.runs]
    without = [name for name, records in folders if not (records and records.values(probe))]
    sentences = []
    if len(without) == len(folders):
        sentences.append(f"No run has records of {probe}{where}.")
    elif without:
        sentences.append(f"Not recorded in {_some(without)}: {probe}{where}.")
    for name, records in folders:
        errors = list(records.errors(probe).items()) if records else []
        sentences += [f"{name}: {probe} had no result at step {step}: {text}" for step, text in errors[:3]]
        if len(errors) > 3:
            sentences.append(f"{name}: {probe} had no result at {len(errors) - 3} more steps.")
    return tuple(sentences)


def escaped(text: str) -> str:
    """Text for HTML, with `code` between backquotes."""
    pieces = html_text(text).split("`")
    if len(pieces) % 2 == 0:
        return "`".join(pieces)
    return "".join(f"<code>{piece}</code>" if k % 2 else piece for k, piece in enumerate(pieces))
