"""Curves against training step as data: thin runs, bold means, nulls, exact denoisers and published values.

Published values are those of P1, *There and Back Again*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from probediff.report.groups import (
    Comparison,
    Estimate,
    Group,
    Member,
    Select,
    all_series,
    combine,
    last_estimate,
    mean_curve,
    members,
    of_kind,
    own,
)
from probediff.report.records import Measured, errors_over

Role = Literal["run", "mean", "single", "null", "baseline", "member", "band", "published"]


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
        baseline: probe of the exact denoisers' values; the same by default.
    """

    probe: str
    key: str
    title: str
    y_label: str = "value"
    scale: float = 1.0
    published: float | None = None
    y_range: tuple[float, float] | None = None
    is_described: bool = True
    baseline: str = ""

    def select(self, kind: str = "own") -> Select:
        """Its values in the folders of ``kind``."""
        return of_kind(kind, self.probe, self.key, self.scale)

    def select_exact(self, kind: str) -> Select:
        """The values beside it of the exact denoiser in the folders of ``kind``."""
        return of_kind(kind, self.baseline or self.probe, self.key, self.scale)


@dataclass(frozen=True)
class Line:
    """One curve, or a level across the panel when it has no steps.

    Attributes:
        label: its words in the legend; empty for none.
        role: decides how it is drawn.
        points: value by training step; a level has one point at step -1.
        half_width: of the band by step; steps without one have no band.
        colour: index of the group's colour; None for black.
        mark: its words at its right end.
    """

    label: str
    role: Role
    points: dict[int, float]
    half_width: dict[int, float]
    colour: int | None = None
    mark: str = ""

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
        x_label: what the steps are.
    """

    title: str
    y_label: str
    lines: tuple[Line, ...]
    y_range: tuple[float, float] | None = None
    x_label: str = "training step"

    @property
    def has_curves(self) -> bool:
        """Whether anything changes with the training step here."""
        return any(len(line.points) > 1 for line in self.lines if line.role in ("run", "mean", "single"))


def panel(comparison: Comparison, quantity: Quantity, kind: str = "own") -> Panel:
    """The curves of all groups, with the null, the exact denoisers and the published value where they exist."""
    probe, key, scale = quantity.probe, quantity.key, quantity.scale
    keys, description = comparison.keys(probe), comparison.describe(probe)
    lines: list[Line] = []
    for index in range(len(comparison.groups)):
        lines += _group_lines(comparison, index, quantity.select(kind))
    if null := description.null_of(key, keys):
        lines += _null_lines(comparison, own(probe, null, scale * description.column(key).null_factor))
    lines += _family_lines(comparison, quantity)
    beside = f"{key}_gaussian"
    gaussian = own(probe, beside, scale) if beside in keys else quantity.select_exact("gaussian")
    lines += _baseline_lines(comparison, gaussian)
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
    every, mean = all_series(group, select), mean_curve(group, select)
    points = {step: value.mean for step, value in mean.items()}
    if len(every) < 2:
        return [Line(group.label, "single", points, error_band(mean), index)] if points else []
    runs = [Line("", "run", _values(series), {}, index) for series in every]
    std = {step: value.std or 0.0 for step, value in mean.items()}
    return [*runs, Line(f"{group.label}, mean ± std", "mean", points, std, index)] if points else runs


def error_band(curve: Mapping[int, Estimate]) -> dict[int, float]:
    """Half width of the band about the curve of a single run, by step: two standard errors, where they are known."""
    return {step: 2 * mean.error for step, mean in curve.items() if mean.n == 1 and mean.error is not None}


def tell_bands(panels: Sequence[Panel], probe: str) -> str:
    """What the bands about curves are, as the sentences that end a caption; empty where there are none.

    Args:
        panels: with the curves.
        probe: whose numbers they are.
    """
    roles = {line.role for panel in panels for line in panel.lines if line.half_width}
    words = {
        "single": f" Band about the curve of a single run: ± 2 standard errors over {errors_over(probe)}.",
        "mean": " Band about a mean: ± 1 sample standard deviation over runs (n - 1).",
    }
    return "".join(sentence for role, sentence in words.items() if role in roles)


def _values(series: Mapping[int, Measured]) -> dict[int, float]:
    return {step: number.value for step, number in series.items()}


def _null_lines(comparison: Comparison, null: Select) -> list[Line]:
    """One level for all runs where they agree, otherwise one in each group's colour; a null may change by step."""
    lines: dict[str, Line] = {}
    for index, group in enumerate(comparison.groups):
        for series in map(_values, all_series(group, null)):
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
            level = combine(number for series in every for number in series.values())
            points = {-1: level.mean} if level else {}
        else:
            points = {step: value.mean for step, value in mean_curve(group, baseline).items()}
        colour = index if len(comparison.groups) > 1 else None
        lines.append(Line(comparison.gaussian_label(group), "baseline", points, {}, colour))
    return lines


def _family_lines(comparison: Comparison, quantity: Quantity) -> list[Line]:
    """A level for each exact denoiser of a group, and the band that those of all bandwidths lie in."""
    lines = []
    for index, group in enumerate(comparison.groups):
        colour = index if len(comparison.groups) > 1 else None
        values = _exact_values(group, quantity)
        banded = {member.bandwidth: value for member, value in values if member.bandwidth is not None}
        if len(banded) > 1:
            low, high = min(banded.values()), max(banded.values())
            words = comparison.exact_label(group, f"exact denoisers, h = {min(banded):g} to {max(banded):g}")
            lines.append(Line(words, "band", {-1: (low + high) / 2}, {-1: (high - low) / 2}, colour))
        # Without a band the lines themselves are in the legend.
        words = "" if len(banded) > 1 else comparison.exact_label(group, "exact denoisers")
        lines += [Line(words, "member", {-1: value}, {}, colour, member.label) for member, value in values]
    return lines


def _exact_values(group: Group, quantity: Quantity) -> list[tuple[Member, float]]:
    levels = ((member, last_estimate(group, quantity.select_exact(member.kind))) for member in members(group))
    return [(member, level.mean) for member, level in levels if level is not None]


def in_words(comparison: Comparison, quantities: Sequence[Quantity], kind: str = "own") -> str:
    """First and last value of each quantity and group, and the exact denoisers', as the text for a figure."""
    parts = []
    for quantity in (quantity for quantity in quantities if quantity.is_described):
        for group in comparison.groups:
            curve = mean_curve(group, quantity.select(kind))
            last = last_estimate(group, quantity.select(kind), 3)
            if curve and last is not None:
                step, first = next(iter(curve.items()))
                title = quantity.title + (f" of {group.label}" if len(comparison.groups) > 1 else "")
                parts.append(f"{title} goes from {first.mean:.3g} at step {step} to {last} at the last step")
                if exact := [f"{value:.3g} at {member.label}" for member, value in _exact_values(group, quantity)]:
                    parts[-1] += f" (exact denoisers: {', '.join(exact)})"
    return "; ".join(parts) or "no values"
