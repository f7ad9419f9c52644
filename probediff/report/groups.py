"""Runs that differ by their seed only belong together: mean and spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from probediff.report.sources import Run, config_value
from probediff.runs.grouping import LEFT_OUT

_MOST_LABEL_KEYS = 3

#: The value of a run by training step.
Select = Callable[[Run], dict[int, float]]


@dataclass(frozen=True)
class Group:
    """Runs that are averaged.

    Attributes:
        label: what sets it apart from the other groups.
        runs: at least one.
    """

    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Comparison:
    """All runs of a report, in groups."""

    groups: tuple[Group, ...]

    @property
    def runs(self) -> list[Run]:
        """The runs of all groups in order."""
        return [run for group in self.groups for run in group.runs]

    @property
    def data(self) -> str | None:
        """The data set that published figures exist for, where all runs share it."""
        found = {run.data for run in self.runs}
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: over runs.
        std: sample standard deviation over runs (n - 1); None for a single run.
        n: how many runs; None where a publication does not count them.
        digits: decimals that are shown; None for four significant digits.
    """

    mean: float
    std: float | None = None
    n: int | None = 1
    digits: int | None = None

    def __str__(self) -> str:
        shown = self._format()
        text = format(self.mean, shown) + ("" if self.std is None else f" ± {format(self.std, shown)}")
        return text + (f" ({self.n})" if self.n is not None and self.n > 1 else "")

    def _format(self) -> str:
        """The given decimals, or those that show four significant digits of the mean."""
        if self.digits is not None:
            return f".{self.digits}f"
        exponent = math.floor(math.log10(abs(self.mean))) if self.mean else 0
        if self.std is None or not -3 <= exponent <= 6:
            return ".4g"
        return f".{max(0, 3 - exponent)}f"


def estimate(values: Iterable[float], digits: int | None = None) -> Estimate | None:
    """Mean and sample standard deviation; None without values."""
    found = [value for value in values if math.isfinite(value)]
    if not found:
        return None
    return Estimate(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found), digits)


def last_values(group: Group, select: Select) -> tuple[int, list[float]] | None:
    """The last step that any run of the group has, and the values of the runs that have it."""
    found = [series for run in group.runs if (series := select(run))]
    if not found:
        return None
    step = max(max(series) for series in found)
    return step, [series[step] for series in found if step in series]


def last_estimate(group: Group, select: Select, digits: int | None = None) -> Estimate | None:
    """Mean and spread at the last step of the group."""
    found = last_values(group, select)
    return estimate(found[1], digits) if found else None


def mean_curve(group: Group, select: Select) -> dict[int, Estimate]:
    """Mean and spread at every step that all runs with any values share."""
    found = [series for run in group.runs if (series := select(run))]
    shared = sorted(set.intersection(*(set(series) for series in found))) if found else []
    means = {step: estimate(series[step] for series in found) for step in shared}
    return {step: mean for step, mean in means.items() if mean is not None}


def own(probe: str, key: str, scale: float = 1.0) -> Select:
    """Values that runs recorded themselves."""
    return of_kind("own", probe, key, scale)


def of_kind(kind: str, probe: str, key: str, scale: float = 1.0) -> Select:
    """Values of the folder of ``kind`` that is made like the run's own records."""

    def select(run: Run) -> dict[int, float]:
        probes = run.like_own(kind)
        return {step: scale * value for step, value in probes.series(probe, key).items()} if probes else {}

    return select


def group_runs(runs: list[Run], group_by: str | None = None) -> Comparison:
    """Groups of identical configuration except the seed, or of equal value of the dotted key ``group_by``.

    Raises:
        ValueError: no configuration has ``group_by``.
    """
    if group_by is not None and all(config_value(run.config, group_by) is None for run in runs):
        raise ValueError(
            f"--group_by must be a dotted key of config.yaml (such as model.learning_rate), got {group_by!r}, "
            f"which no run has"
        )
    members: dict[Any, list[Run]] = {}
    for run in runs:
        members.setdefault(_group_key(run, group_by), []).append(run)
    if group_by is not None:
        labels = [
            f"{group_by.rpartition('.')[2]}={config_value(found[0].config, group_by)}" for found in members.values()
        ]
    else:
        labels = _labels(list(members.values()))
    return Comparison(tuple(Group(label, tuple(found)) for label, found in zip(labels, members.values(), strict=True)))


def _group_key(run: Run, group_by: str | None) -> Any:
    if group_by is not None:
        return str(config_value(run.config, group_by))
    # A model without a configuration, or one that was not trained here, is a group of its own.
    return tuple(sorted(_flat(run.config).items())) if run.config and run.own.kind == "own" else run.path


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name not in LEFT_OUT:
            flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: str(value)}
    return flat


def _runs(found: list[Run]) -> str:
    return found[0].name if len(found) == 1 else f"{len(found)} runs"


def _labels(members: list[list[Run]]) -> list[str]:
    """What sets the groups apart: a few keys that differ, otherwise the names of their first runs."""
    names = [found[0].name if len(found) == 1 else f"{found[0].name} and {len(found) - 1} more" for found in members]
    if len(members) == 1:
        return names if len(members[0]) == 1 else [_runs(members[0])]
    flats = [_flat(found[0].config) for found in members]
    differing = [key for key in dict.fromkeys(k for f in flats for k in f) if len({f.get(key) for f in flats}) > 1]
    if not (0 < len(differing) <= _MOST_LABEL_KEYS and all(flats)):
        data = [found[0].data or found[0].data_class or "" for found in members]
        labels = [f"{d}, {_runs(found)}" for d, found in zip(data, members, strict=True)]
        return labels if all(data) and len(set(data)) == len(data) else names
    return [", ".join(f"{key.rpartition('.')[2]}={flat.get(key, 'unset')}" for key in differing) for flat in flats]
