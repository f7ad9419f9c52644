"""Figures of the whitening analysis that are no pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probediff.pictures import label
from probediff.report.curves import FAMILY_COLOUR, PALETTE
from probediff.report.drawings import draw_axes, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Curve:
    """Slope and R² against a count.

    Attributes:
        counts: ascending.
        slopes, r2_scaled, r2: None where there is none.
    """

    counts: list[int]
    slopes: list[float | None]
    r2_scaled: list[float | None]
    r2: list[float | None]


def draw_slopes(panels: dict[str, dict[str, Curve]], exact: dict[str, dict[str, Curve]]) -> Drawing:
    """A column for each panel: slopes with the lines -1/2 and -1 above, R² (dotted: without a scale) below.

    Args:
        panels: title -> name -> curve.
        exact: title -> name -> curve of an exact denoiser, which is thin; a light band holds them all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 5.2), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col", sharey="row")
    for column, (title, curves) in enumerate(panels.items()):
        upper, lower = axes[:, column]
        for colour, (name, curve) in zip(("#0072B2", "#000000"), curves.items(), strict=False):
            style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.8, "label": name}
            upper.plot(curve.counts, np.array(curve.slopes, dtype=float), **style)
            lower.plot(curve.counts, np.array(curve.r2_scaled, dtype=float), **style)
            lower.plot(curve.counts, np.array(curve.r2, dtype=float), **style | {"linestyle": ":", "label": ""})
        _draw_family(upper, {name: (curve.counts, curve.slopes) for name, curve in exact[title].items()})
        _draw_family(lower, {name: (curve.counts, curve.r2_scaled) for name, curve in exact[title].items()})
        for level, words in ((-0.5, "ZCA: -1/2"), (-1.0, "limit: -1")):
            upper.axhline(level, color="#6B6B6B", linestyle=(0, (5, 3)), linewidth=1.2)
            upper.annotate(words, (0.02, level - 0.02), xycoords=("axes fraction", "data"), va="top", fontsize=8)
        upper.set_ylim(min(-1.2, upper.get_ylim()[0]), max(0.05, upper.get_ylim()[1]))
        upper.set_title(title, fontsize=10)
        lower.set_xscale("log")
        lower.set_ylim(-0.02, 1.02)
        lower.set_xlabel("iterations" if column == 0 else "DDIM steps", fontsize=9)
        for axis in (upper, lower):
            plain_axes(axis)
    axes[0, 0].set_ylabel("slope", fontsize=9)
    axes[1, 0].set_ylabel("R² of ZCA, best scale (dotted: as is)", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def _draw_family(axis: Any, curves: dict[str, tuple[list[int], list[float | None]]]) -> None:
    """Thin curves over the same counts with their names at their ends, and what lies between them."""
    known = {name: (counts, np.array(values, dtype=float)) for name, (counts, values) in curves.items()}
    known = {name: (counts, values) for name, (counts, values) in known.items() if np.isfinite(values).any()}
    for name, (counts, values) in known.items():
        axis.plot(counts, values, color=FAMILY_COLOUR, linewidth=0.7, marker=".", markersize=3)
        last = int(np.isfinite(values).nonzero()[0][-1])
        place = {"textcoords": "offset points", "xytext": (3, 0), "va": "center"}
        axis.annotate(label(name, 24), (counts[last], values[last]), fontsize=6, color=FAMILY_COLOUR, **place)
    if len(known) > 1:
        (counts, _), *_ = known.values()
        values = np.ma.masked_invalid([row for _, row in known.values()])
        band = {"color": FAMILY_COLOUR, "alpha": 0.15, "linewidth": 0, "label": "exact denoisers"}
        axis.fill_between(counts, values.min(axis=0), values.max(axis=0), **band)


def draw_fit(r2: dict[str, float], residuals: dict[str, np.ndarray]) -> Drawing:
    """Bars of R² by transform, and the distribution of the residual where its histogram is known."""
    edges, counts = (residuals.get(f"residual_histogram_{part}") for part in ("edges", "counts"))
    known = edges is not None and counts is not None
    figure, axes = draw_axes(2 if known else 1, (4.6, 3.2))
    axes[0].barh([label(name, 40) for name in r2], [float(value) for value in r2.values()], color=PALETTE[0])
    axes[0].invert_yaxis()
    axes[0].set_xlabel("R², best scale", fontsize=9)
    if edges is not None and counts is not None:
        axes[1].stairs(counts / max(counts.sum(), 1) / np.diff(edges), edges, color=PALETTE[0], fill=True, alpha=0.6)
        axes[1].set_xlabel("residual of W_diff", fontsize=9)
        axes[1].set_ylabel("density", fontsize=9)
    for axis in axes:
        plain_axes(axis)
    return figure
