"""Drawing of curves against training step, in panels with one legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probediff.pictures import label
from probediff.report.drawings import draw_axes, plain_axes
from probediff.report.panels import Line, Panel, Role

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

#: Colours that people with any colour vision tell apart (Okabe and Ito 2008), dark ones first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_NULL_COLOUR, FAMILY_COLOUR = "#6B6B6B", "#8C6BB1"
#: Share of an axis between the words at the ends of two lines.
_MARK_GAP = 0.055
_LARGEST_DRAWN, _LARGEST_STEP = 1e100, 2**53
_PANEL_INCHES = (3.5, 2.75)
_LEGEND_INCHES, _MOST_LEGEND_LETTERS, _MOST_LEGEND_ROWS = 2.1, 40, 40


def draw(panels: Sequence[Panel]) -> Drawing:
    """All panels that hold anything, with one legend below them."""
    shown = [_drawable(panel) for panel in panels if panel.lines]
    figure, axes = draw_axes(len(shown), _PANEL_INCHES, legend_inches=0.45, most_columns=2 if len(shown) == 4 else 3)
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.09, w_pad=0.06)
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, shown, strict=True):
        for line in panel.lines:
            handle = _draw_line(axis, line)
            if line.label:
                handles.setdefault(line.label, handle)
        axis.set_title(label(panel.title, 45), fontsize=10)
        axis.set_ylabel(label(panel.y_label, 45), fontsize=9)
        if panel.y_range is not None:
            axis.set_ylim(*panel.y_range)
        _step_axis(axis, panel)
        _write_marks(axis, panel)
    if handles:
        _add_legend(figure, handles)
    return figure


def _drawable(panel: Panel) -> Panel:
    """The panel without points that no axis holds, which its title then counts."""
    lines = []
    for line in panel.lines:
        points = {s: v for s, v in line.points.items() if abs(v) < _LARGEST_DRAWN and s < _LARGEST_STEP}
        lines.append(replace(line, points=points))
    count = sum(len(line.points) for line in panel.lines) - sum(len(line.points) for line in lines)
    if not count:
        return panel
    title = f"{panel.title}, {count} too large"
    return replace(panel, title=title, lines=tuple(line for line in lines if line.points), y_range=None)


def _add_legend(figure: Drawing, handles: dict[str, Any]) -> None:
    """Words below the panels in as many columns as they leave room for, and room for all rows but the first two."""
    words = [label(text, _MOST_LEGEND_LETTERS) for text in list(handles)[:_MOST_LEGEND_ROWS]]
    if len(handles) > len(words):
        words[-1] = f"… and {len(handles) - len(words) + 1} more"
    widest = max(_LEGEND_INCHES, 0.6 + 0.07 * max(map(len, words)))
    columns = max(1, min(len(words), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, -(-len(words) // columns) - 2))
    named = {"handles": list(handles.values())[: len(words)], "labels": words}
    figure.legend(**named, loc="outside lower center", ncols=columns, fontsize=8.5, frameon=False)


def _draw_line(axis: Any, line: Line) -> Any:
    colour = "black" if line.colour is None else PALETTE[line.colour % len(PALETTE)]
    family = FAMILY_COLOUR if line.colour is None else colour
    marker = _MARKERS[(line.colour or 0) % len(_MARKERS)]
    styles: dict[Role, dict[str, Any]] = {
        "run": {"linewidth": 0.8, "alpha": 0.5, "color": colour},
        "mean": {"linewidth": 2.2, "color": colour, "marker": marker, "markersize": 4},
        "single": {"linewidth": 1.8, "color": colour, "marker": marker, "markersize": 4},
        "null": {"linewidth": 1.5, "color": _NULL_COLOUR if line.colour is None else colour, "linestyle": (0, (5, 3))},
        "baseline": {"linewidth": 1.5, "color": colour, "linestyle": (0, (6, 2, 1, 2)), "alpha": 0.9},
        "member": {"linewidth": 0.6, "color": family, "alpha": 0.9},
        "band": {"linewidth": 0, "color": family, "alpha": 0.15},
        "published": {"linewidth": 1.5, "color": "black", "linestyle": (0, (1, 1.5))},
    }
    style = styles[line.role]
    if line.role == "band":
        return axis.axhspan(line.points[-1] - line.half_width[-1], line.points[-1] + line.half_width[-1], **style)
    if line.is_level:
        return axis.axhline(line.points[-1], **{k: v for k, v in style.items() if not k.startswith("marker")})
    steps, values = list(line.points), list(line.points.values())
    if line.half_width:
        # Where there is no band it has a gap.
        half_width = np.array([min(line.half_width.get(step, np.nan), _LARGEST_DRAWN) for step in steps])
        faint = {"color": colour, "alpha": 0.12 if line.role == "single" else 0.18, "linewidth": 0}
        axis.fill_between(steps, values - half_width, values + half_width, **faint)
    return axis.plot(steps, values, **style)[0]


def _write_marks(axis: Any, panel: Panel) -> None:
    """Words at the right ends of lines, each as near to its line as the others leave room for."""
    low, high = axis.get_ylim()
    marked = sorted((line for line in panel.lines if line.mark), key=lambda line: line.points[-1])
    places = [(line.points[-1] - low) / (high - low) for line in marked]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + _MARK_GAP)
    # What that pushes beyond the upper end comes down again, and pushes those below it.
    for k in reversed(range(len(places))):
        places[k] = min(places[k], 1.0 if k == len(places) - 1 else places[k + 1] - _MARK_GAP)
    for line, place in zip(marked, places, strict=True):
        colour = FAMILY_COLOUR if line.colour is None else PALETTE[line.colour % len(PALETTE)]
        axis.text(1.01, place, label(line.mark, 24), transform=axis.transAxes, color=colour, fontsize=6, va="center")


def _step_axis(axis: Any, panel: Panel) -> None:
    """Logarithmic, with step 0 at the left end: most happens early."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    steps = sorted({step for line in panel.lines for step in line.points if step >= 0})
    positive = [step for step in steps if step > 0]
    how = "(0, then logarithmic)" if 0 in steps else "(logarithmic)"
    axis.set_xlabel(f"{panel.x_label} {how}", fontsize=9)
    plain_axes(axis)
    if not positive:
        axis.set_xticks([0])
        axis.set_xlabel(panel.x_label, fontsize=9)
        return
    # Linear between 0 and the first step, which takes the room of one decade.
    axis.set_xscale("symlog", linthresh=positive[0], linscale=0.6)
    first, last = len(str(positive[0])) - 1, len(str(positive[-1]))
    decades = [10**k for k in range(first, last + 1) if positive[0] <= 10**k <= positive[-1]]
    every = -(-len(decades) // 6) or 1
    ticks = ([0] if 0 in steps else []) + (decades[::every] or [positive[-1]])
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(FixedLocator([k * d for d in decades for k in range(2, 10) if k * d <= positive[-1]]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_xlim(0 if 0 in steps else positive[0], positive[-1] * 1.15)


def short_number(value: float) -> str:
    """1500 -> 1.5K, 2000000 -> 2M."""
    for size, letter in ((1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
