"""Curves against training step: thin runs, bold means, nulls, the Gaussian denoiser and published values.

Published values are those of P1, *There and Back Again*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from probediff.pictures import label
from probediff.report.drawings import draw_axes, plain_axes
from probediff.report.groups import (
    Comparison,
    Select,
    all_series,
    estimate,
    last_estimate,
    mean_curve,
    of_kind,
    own,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

#: Colours that people with any colour vision tell apart (Okabe and Ito 2008), dark ones first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_NULL_COLOUR = "#6B6B6B"
_LARGEST_DRAWN, _LARGEST_STEP = 1e100, 2**53
_PANEL_INCHES = (3.5, 2.75)
_LEGEND_INCHES, _MOST_LEGEND_LETTERS, _MOST_LEGEND_ROWS = 2.1, 40, 40

Role = Literal["run", "mean", "single", "null", "baseline", "published"]


@dataclass(frozen=True)
class Quantity:
    """A number of a probe that is shown as a panel of curves.

    Attributes:
        probe, key: where it is recorded.
        title, y_label: words of the panel.
        scale: what it is multiplied with.
        published: a level.
        y_range: ends of the vertical axis; as the values need it by default.
        is_described: whether the text that stands for the figure tells its values.
    """

    probe: str
    key: str
    title: str
    y_label: str = "value"
    scale: float = 1.0
    published: float | None = None
    y_range: tuple[float, float] | None = None
    is_described: bool = True

    def select(self, kind: str = "own") -> Select:
        """Its values in the folders of ``kind``."""
        return of_kind(kind, self.probe, self.key, self.scale)


@dataclass(frozen=True)
class Line:
    """One curve, or a level across the panel when it has no steps.

    Attributes:
        label: its words in the legend; empty for none.
        role: decides how it is drawn.
        points: value by training step; a level has one point at step -1.
        std: half width of the band by step.
        colour: index of the group's colour; None for black.
    """

    label: str
    role: Role
    points: dict[int, float]
    std: dict[int, float]
    colour: int | None = None

    @property
    def is_level(self) -> bool:
        """Whether it has no training steps."""
        return set(self.points) == {-1}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title, y_label: its words.
        lines: what is drawn.
        y_range: ends of the vertical axis; as the values need it by default.
    """

    title: str
    y_label: str
    lines: tuple[Line, ...]
    y_range: tuple[float, float] | None = None

    @property
    def has_curves(self) -> bool:
        """Whether anything changes with the training step here."""
        return any(len(line.points) > 1 for line in self.lines if line.role in ("run", "mean", "single"))


def panel(comparison: Comparison, quantity: Quantity, kind: str = "own") -> Panel:
    """The curves of all groups, with the null, the Gaussian denoiser and the published value where they exist."""
    probe, key, scale = quantity.probe, quantity.key, quantity.scale
    keys, description = comparison.keys(probe), comparison.describe(probe)
    lines: list[Line] = []
    for index in range(len(comparison.groups)):
        lines += _group_lines(comparison, index, quantity.select(kind))
    if null := description.null_of(key, keys):
        lines += _null_lines(comparison, own(probe, null, scale * description.column(key).null_factor))
    beside = f"{key}_gaussian"
    lines += _baseline_lines(comparison, own(probe, beside, scale) if beside in keys else quantity.select("gaussian"))
    if quantity.published is not None and lines:
        lines.append(Line("published (P1)", "published", {-1: quantity.published}, {}))
    return Panel(quantity.title, quantity.y_label, tuple(lines), quantity.y_range)


def same_range(panels: list[Panel], share: float = 0.05) -> list[Panel]:
    """The panels with one vertical axis for all, a share of its length free at both ends."""
    values = [value for panel in panels for line in panel.lines for value in line.points.values()]
    if not values:
        return panels
    free = share * (max(values) - min(values)) or 0.5
    return [replace(panel, y_range=(min(values) - free, max(values) + free)) for panel in panels]


def _group_lines(comparison: Comparison, index: int, select: Select) -> list[Line]:
    group = comparison.groups[index]
    every = all_series(group, select)
    if len(every) < 2:
        return [Line(group.label, "single", series, {}, index) for series in every]
    runs = [Line("", "run", series, {}, index) for series in every]
    mean = mean_curve(group, select)
    points = {step: value.mean for step, value in mean.items()}
    std = {step: value.std or 0.0 for step, value in mean.items()}
    return [*runs, Line(f"{group.label}, mean ± std", "mean", points, std, index)] if points else runs


def _null_lines(comparison: Comparison, null: Select) -> list[Line]:
    """One level for all runs where they agree, otherwise one in each group's colour; a null may change by step."""
    lines: dict[str, Line] = {}
    for index, group in enumerate(comparison.groups):
        for series in all_series(group, null):
            values = {f"{value:.3g}" for value in series.values()}
            points = {-1: next(iter(series.values()))} if len(values) == 1 else series
            lines.setdefault(",".join(sorted(values)), Line(f"null, {group.label}", "null", points, {}, index))
    if len(lines) > 1 and len(comparison.groups) > 1:
        return list(lines.values())
    return [replace(line, label="null", colour=None) for line in lines.values()]


def _baseline_lines(comparison: Comparison, baseline: Select) -> list[Line]:
    lines = []
    for index, group in enumerate(comparison.groups):
        every = all_series(group, baseline)
        if not every:
            continue
        if all(len(series) == 1 for series in every):
            level = estimate(value for series in every for value in series.values())
            points = {-1: level.mean} if level else {}
        else:
            points = {step: value.mean for step, value in mean_curve(group, baseline).items()}
        colour = index if len(comparison.groups) > 1 else None
        lines.append(Line(comparison.gaussian_label(group), "baseline", points, {}, colour))
    return lines


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
    return Panel(title, panel.y_label, tuple(line for line in lines if line.points))


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
    marker = _MARKERS[(line.colour or 0) % len(_MARKERS)]
    styles: dict[Role, dict[str, Any]] = {
        "run": {"linewidth": 0.8, "alpha": 0.5, "color": colour},
        "mean": {"linewidth": 2.2, "color": colour, "marker": marker, "markersize": 4},
        "single": {"linewidth": 1.8, "color": colour, "marker": marker, "markersize": 4},
        "null": {"linewidth": 1.5, "color": _NULL_COLOUR if line.colour is None else colour, "linestyle": (0, (5, 3))},
        "baseline": {"linewidth": 1.5, "color": colour, "linestyle": (0, (6, 2, 1, 2)), "alpha": 0.9},
        "published": {"linewidth": 1.5, "color": "black", "linestyle": (0, (1, 1.5))},
    }
    style = styles[line.role]
    if line.is_level:
        return axis.axhline(line.points[-1], **{k: v for k, v in style.items() if not k.startswith("marker")})
    steps, values = list(line.points), list(line.points.values())
    if line.std:
        low = [line.points[step] - line.std[step] for step in steps]
        high = [line.points[step] + line.std[step] for step in steps]
        axis.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    return axis.plot(steps, values, **style)[0]


def _step_axis(axis: Any, panel: Panel) -> None:
    """Logarithmic, with step 0 at the left end: most happens early."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    steps = sorted({step for line in panel.lines for step in line.points if step >= 0})
    positive = [step for step in steps if step > 0]
    axis.set_xlabel("training step (0, then logarithmic)" if 0 in steps else "training step (logarithmic)", fontsize=9)
    plain_axes(axis)
    if not positive:
        axis.set_xticks([0])
        axis.set_xlabel("training step", fontsize=9)
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


def in_words(comparison: Comparison, quantities: Sequence[Quantity], kind: str = "own") -> str:
    """First and last value of each quantity and group, as the text that stands for a figure."""
    parts = []
    for quantity in (quantity for quantity in quantities if quantity.is_described):
        for group in comparison.groups:
            curve = mean_curve(group, quantity.select(kind))
            last = last_estimate(group, quantity.select(kind), 3)
            if curve and last is not None:
                step, first = next(iter(curve.items()))
                title = quantity.title + (f" of {group.label}" if len(comparison.groups) > 1 else "")
                parts.append(f"{title} goes from {first.mean:.3g} at step {step} to {last} at the last step")
    return "; ".join(parts) or "no values"
