"""Figures of the whitening analysis that are no pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from probediff.report.curves import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Curve:
    """Slope and R² against a count.

    Attributes:
        counts: ascending.
        slopes, r2: None where there is none.
    """

    counts: list[int]
    slopes: list[float | None]
    r2: list[float | None]


def draw_slopes(panels: dict[str, dict[str, Curve]]) -> Drawing:
    """A column for each panel: slopes with the lines -1/2 and -1 above, R² below; curves by label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 5.2), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(panels), squeeze=False, sharex="col", sharey="row")
    for column, (title, curves) in enumerate(panels.items()):
        upper, lower = axes[:, column]
        for colour, (label, curve) in zip(("#0072B2", "#000000"), curves.items(), strict=False):
            style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.8, "label": label}
            upper.plot(curve.counts, np.array(curve.slopes, dtype=float), **style)
            lower.plot(curve.counts, np.array(curve.r2, dtype=float), **style)
        for level, name in ((-0.5, "ZCA: -1/2"), (-1.0, "limit: -1")):
            upper.axhline(level, color="#6B6B6B", linestyle=(0, (5, 3)), linewidth=1.2)
            upper.annotate(name, (0.02, level - 0.02), xycoords=("axes fraction", "data"), va="top", fontsize=8)
        upper.set_ylim(min(-1.2, upper.get_ylim()[0]), max(0.05, upper.get_ylim()[1]))
        upper.set_title(title, fontsize=10)
        lower.set_xscale("log")
        lower.set_ylim(-0.02, 1.02)
        lower.set_xlabel("iterations" if column == 0 else "DDIM steps", fontsize=9)
        for axis in (upper, lower):
            _plain(axis)
    axes[0, 0].set_ylabel("slope", fontsize=9)
    axes[1, 0].set_ylabel("R² of ZCA, best scale", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def draw_fit(rows: dict[str, dict[str, Any]], folder: Path) -> Drawing:
    """Bars of R² by transform, and the distribution of the residual where its file can be read."""
    from matplotlib.figure import Figure

    histogram = _histogram(folder)
    columns = 2 if histogram is not None else 1
    figure = Figure(figsize=(4.6 * columns, 3.2), layout="constrained", facecolor="white")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    values = [float(row["r2_scaled"]) for row in rows.values()]
    axes[0].barh(list(rows), values, color=PALETTE[0])
    axes[0].invert_yaxis()
    axes[0].set_xlabel("R², best scale", fontsize=9)
    _plain(axes[0])
    if histogram is not None:
        edges, counts = histogram
        axes[1].stairs(counts / max(counts.sum(), 1) / np.diff(edges), edges, color=PALETTE[0], fill=True, alpha=0.6)
        axes[1].set_xlabel("residual of W_diff", fontsize=9)
        axes[1].set_ylabel("density", fontsize=9)
        _plain(axes[1])
    return figure


def _histogram(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        arrays = load_file(folder / "whitening.safetensors")
        return arrays["residual_histogram_edges"], arrays["residual_histogram_counts"]
    except (OSError, KeyError, SafetensorError):
        return None


def _plain(axis: Any) -> None:
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, linewidth=0.5, color="#DDDDDD")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
