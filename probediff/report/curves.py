"""Curves against training step: thin runs, bold means, nulls, baselines and published values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from probediff.report.groups import Comparison, Estimate, Select, estimate, last_estimate, mean_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

#: Colours that people with any colour vision tell apart (Okabe and Ito 2008), dark ones first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_NULL_COLOUR = "#6B6B6B"
_MOST_COLUMNS = 3
_PANEL_INCHES = (3.5, 2.75)

Role = Literal["run", "mean", "single", "null", "baseline", "published"]


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


def panel(
    comparison: Comparison,
    title: str,
    y_label: str,
    select: Select,
    null: Select | None = None,
    baseline: Select | None = None,
    published: float | None = None,
) -> Panel:
    """The curves of all groups, with the null, the Gaussian denoiser and the published value where they exist.

    Args:
        comparison: the groups.
        title, y_label: words of the panel.
        select: what is drawn.
        null: what chance gives.
        baseline: the same quantity of the Gaussian denoiser.
        published: a level.
    """
    lines = [line for index in range(len(comparison.groups)) for line in _group_lines(comparison, index, select)]
    if null is not None:
        lines += _null_lines(comparison, null)
    if baseline is not None:
        lines += _baseline_lines(comparison, baseline)
    if published is not None and lines:
        lines.append(Line("published (P1)", "published", {-1: published}, {}))
    return Panel(title, y_label, tuple(lines))


def same_range(panels: list[Panel], share: float = 0.05) -> list[Panel]:
    """The panels with one vertical axis for all, a share of its length free at both ends."""
    values = [value for one in panels for line in one.lines for value in line.points.values()]
    if not values:
        return panels
    free = share * (max(values) - min(values)) or 0.5
    return [replace(one, y_range=(min(values) - free, max(values) + free)) for one in panels]


def _group_lines(comparison: Comparison, index: int, select: Select) -> list[Line]:
    group = comparison.groups[index]
    found = [series for run in group.runs if (series := select(run))]
    if len(found) < 2:
        return [Line(group.label, "single", series, {}, index) for series in found]
    runs = [Line("", "run", series, {}, index) for series in found]
    mean = mean_curve(group, select)
    points = {step: value.mean for step, value in mean.items()}
    std = {step: value.std or 0.0 for step, value in mean.items()}
    return [*runs, Line(f"{group.label}, mean ± std", "mean", points, std, index)] if points else runs


def _null_lines(comparison: Comparison, null: Select) -> list[Line]:
    """One level for all runs where they agree, otherwise one in each group's colour; a null may change by step."""
    lines: dict[str, Line] = {}
    for index, group in enumerate(comparison.groups):
        for series in (found for run in group.runs if (found := null(run))):
            values = {f"{value:.3g}" for value in series.values()}
            points = {-1: next(iter(series.values()))} if len(values) == 1 else series
            lines.setdefault(",".join(sorted(values)), Line(f"null, {group.label}", "null", points, {}, index))
    if len(lines) > 1 and len(comparison.groups) > 1:
        return list(lines.values())
    return [replace(line, label="null", colour=None) for line in lines.values()]


def _baseline_lines(comparison: Comparison, baseline: Select) -> list[Line]:
    lines = []
    for index, group in enumerate(comparison.groups):
        found = [series for run in group.runs if (series := baseline(run))]
        if not found:
            continue
        colour = index if len(comparison.groups) > 1 else None
        label = "Gaussian denoiser" + (f", {group.label}" if colour is not None else "")
        if all(len(series) == 1 for series in found):
            level = estimate(value for series in found for value in series.values())
            points = {-1: level.mean} if level else {}
        else:
            points = {step: value.mean for step, value in mean_curve(group, baseline).items()}
        lines.append(Line(label, "baseline", points, {}, colour))
    return lines


def draw(panels: list[Panel]) -> Drawing:
    """All panels that hold anything, with one legend below them."""
    from matplotlib.figure import Figure

    shown = [one for one in panels if one.lines]
    columns = min(_MOST_COLUMNS, len(shown)) if len(shown) != 4 else 2
    rows = -(-len(shown) // columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows + 0.45), layout="constrained", facecolor="white")
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.09, w_pad=0.06)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for axis, one in zip(axes, shown, strict=False):
        for line in one.lines:
            handle = _draw_line(axis, line)
            if line.label:
                handles.setdefault(line.label, handle)
        axis.set_title(one.title, fontsize=10)
        axis.set_ylabel(one.y_label, fontsize=9)
        if one.y_range is not None:
            axis.set_ylim(*one.y_range)
        _step_axis(axis, one)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    if handles:
        columns_of_legend = max(1, min(len(handles), int(width * columns / 2.1)))
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=columns_of_legend,
            fontsize=8.5,
            frameon=False,
        )
    return figure


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


def _step_axis(axis: Any, one: Panel) -> None:
    """Logarithmic, with step 0 at the left end: most happens early."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    steps = sorted({step for line in one.lines for step in line.points if step >= 0})
    positive = [step for step in steps if step > 0]
    axis.set_xlabel("training step (0, then logarithmic)" if 0 in steps else "training step (logarithmic)", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, linewidth=0.5, color="#DDDDDD")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
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


def in_words(comparison: Comparison, told: list[tuple[str, Select]], show: Callable[[Estimate], str] = str) -> str:
    """First and last value of each quantity and group, as the text that stands for a figure."""
    parts = []
    for title, select in told:
        for group in comparison.groups:
            curve = mean_curve(group, select)
            last = last_estimate(group, select, 3)
            if curve and last is not None:
                step, first = next(iter(curve.items()))
                name = f" of {group.label}" if len(comparison.groups) > 1 else ""
                parts.append(
                    f"{title}{name} goes from {first.mean:.3g} at step {step} to {show(last)} at the last step"
                )
    return "; ".join(parts) or "no values"
