"""What a page is made of, and the sentences about how a number came about."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probediff.report.groups import Comparison
from probediff.report.sources import Probes
from probediff.report.tables import Table

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


def how_computed(comparison: Comparison, probe: str, kind: str = "own") -> str:
    """N, steps, convention and the rest behind the records of one probe; says which records disagree."""
    folders = {run.name: probes for run in comparison.runs if (probes := run.like_own(kind))}
    found = {name: probes.conventions(probe) for name, probes in folders.items()}
    keys = dict.fromkeys(key for all_of_run in found.values() for one in all_of_run for key in one)
    agreed: dict[str, Any] = {}
    differing = []
    for key in (k for k in keys if k not in _OMITTED):
        by_value: dict[str, list[str]] = {}
        for name, conventions in found.items():
            for value in dict.fromkeys(_plain(one[key]) for one in conventions if key in one):
                by_value.setdefault(value, []).append(name)
        if len(by_value) == 1:
            agreed[key] = next(iter(by_value))
        else:
            told = (f"{v} ({_some(_whole_groups(comparison, names))})" for v, names in by_value.items())
            differing.append(f"{key} " + ", ".join(told))
    if not agreed:
        return "The records do not say how this was computed."
    text = f"Computed with {_sentence(agreed)}."
    return text + (f" The records disagree on: {'; '.join(differing)}." if differing else "")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("method", value))
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _whole_groups(comparison: Comparison, names: list[str]) -> list[str]:
    """Names of runs, those of a whole group under its label."""
    whole = [group for group in comparison.groups if {run.name for run in group.runs} <= set(names)]
    covered = {run.name for group in whole for run in group.runs}
    return [group.label for group in whole] + [name for name in names if name not in covered]


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sentence(agreed: dict[str, str]) -> str:
    onoff = {"True": "on", "False": "off"}
    weights = {"ema": "averaged weights", "raw": "raw weights"}
    known = {
        "num_samples": lambda v: f"N = {v}",
        "num_steps": lambda v: f"{v} DDIM steps",
        "convention": lambda v: f"convention {v}",
        "clip": lambda v: f"clipping while sampling {onoff.get(v, v)}",
        "clip_inversion": lambda v: f"clipping while inverting {onoff.get(v, v)}",
        "inversion": lambda v: f"inversion method {v}",
        "weights": lambda v: weights.get(v, v),
        "ema_rate": lambda v: "" if v == "None" else f"EMA rate {v}",
        "noise_seed": lambda v: f"noise seed {v}",
        "schedule": lambda v: f"{v} schedule",
        "num_train_timesteps": lambda v: f"T = {v}",
        "image_shape": lambda v: f"images of {v}",
        "samples_of_step": lambda v: f"samples of step {v}",
    }
    told = [tell(agreed[key]) for key, tell in known.items() if key in agreed]
    told += [f"{key} {value}" for key, value in agreed.items() if key not in known and value != "None"]
    return ", ".join(text for text in told if text)


def missing_from(comparison: Comparison, probe: str, kind: str = "own") -> tuple[str, ...]:
    """Which runs have no record of a probe, and where a probe said that it had no result."""
    where = "" if kind == "own" else f" among what `probediff probe` made as {kind}"
    found: list[tuple[str, Probes | None]] = [(run.name, run.like_own(kind)) for run in comparison.runs]
    without = [name for name, probes in found if not (probes and probes.values(probe))]
    said = []
    if len(without) == len(found):
        said.append(f"No run has records of {probe}{where}.")
    elif without:
        said.append(f"Not recorded in {_some(without)}: {probe}{where}.")
    for name, probes in found:
        errors = probes.errors(probe) if probes else {}
        said += [f"{name}: {probe} had no result at step {step}: {text}" for step, text in list(errors.items())[:3]]
        if len(errors) > 3:
            said.append(f"{name}: {probe} had no result at {len(errors) - 3} more steps.")
    return tuple(said)


def joined(parts: Iterable[str]) -> str:
    """Sentences with one space between them."""
    return " ".join(part for part in parts if part)


def escaped(text: str) -> str:
    """Text for HTML, with `code` between backquotes."""
    pieces = html.escape(text, quote=True).split("`")
    if len(pieces) % 2 == 0:
        return "`".join(pieces)
    return "".join(f"<code>{piece}</code>" if k % 2 else piece for k, piece in enumerate(pieces))
