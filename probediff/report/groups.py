"""Runs that differ by their seed only belong together: mean, standard error and spread over seeds."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from probediff.display.text import round_by_error
from probediff.report.records import EXACT, Measured, ProbeRecords
from probediff.report.sources import Run
from probediff.runs.descriptions import Description
from probediff.runs.grouping import LEFT_OUT, config_value, is_told_apart

_MOST_LABEL_KEYS, _MOST_PICTURES = 3, 4
#: What the spread over runs is called.
STD = "std"

#: A number of a run by training step.
Select = Callable[[Run], dict[int, Measured]]


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
class Member:
    """One exact denoiser of the images of a group's runs.

    Attributes:
        kind: of its folders of records.
        label: how it is called.
        bandwidth: h where it is of the family from the training set (0) to its Gaussian (1), None for any other.
        num_images: that it was fitted to.
        dropped_weight: of the images that an evaluation may pass over.
    """

    kind: str
    label: str
    bandwidth: float | None
    num_images: int
    dropped_weight: float

    @classmethod
    def of(cls, records: ProbeRecords) -> "Member":
        """That of a folder of records."""
        h, count = records.convention("bandwidth"), records.convention("fitted_to") or 0
        h = 1.0 if records.kind == "gaussian" else h
        dropped = records.convention("dropped_weight") or 0.0
        # Of how many images it is stands beside the name where that sets it apart.
        parts = (part for part in str(records.kind).removeprefix(EXACT).split(",") if not part.startswith("images="))
        label = ", ".join(parts) if h is None else f"h = {h:g}" + (f", dropped_weight = {dropped:g}" if dropped else "")
        return cls(records.kind, label, h, count, dropped)


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
        data = {run.data for run in self.runs}
        return data.pop() if len(data) == 1 else None

    def keys(self, probe: str, kind: str = "own") -> list[str]:
        """Keys of all runs' values of a probe, in the order of the records."""
        folders = [records for run in self.runs if (records := run.like_own(kind))]
        return list(dict.fromkeys(key for r in folders for values in r.values(probe).values() for key in values))

    def describe(self, probe: str) -> Description:
        """What is known of a probe, by the first run that has records of it."""
        runs = [run for run in self.runs if probe in run.own.probe_names()] or self.runs
        return runs[0].own.describe(probe)

    def first_runs(self) -> list[tuple[int, Group, Run]]:
        """The first run of each of the first groups, whose pictures are shown; index from 1."""
        return [(index, group, group.runs[0]) for index, group in enumerate(self.groups[:_MOST_PICTURES], start=1)]

    def gaussian_label(self, group: Group) -> str:
        """How the Gaussian denoiser of a group is called."""
        return self.exact_label(group, "Gaussian denoiser")

    def exact_label(self, group: Group, name: str) -> str:
        """How an exact denoiser of a group is called."""
        return name + (f", {group.label}" if len(self.groups) > 1 else "")


def members(group: Group, *but: str) -> list[Member]:
    """The exact denoisers whose records were made as the runs' own, by bandwidth; none where the Gaussian is the only.

    Of several of one bandwidth one stands for all: that with the most probes of the run's own options, then that which
    was fitted to the most images, then that which passes over the least.

    Args:
        group: the runs.
        but: settings that may be others.
    """
    best: dict[Any, Member] = {}
    every = [
        (len(records.other_options(run.own)), Member.of(records))
        for run in group.runs
        for records in run.comparable(*but)
    ]
    for _, member in sorted(every, key=lambda pair: (pair[0], -pair[1].num_images, pair[1].dropped_weight)):
        best.setdefault(member.label if member.bandwidth is None else member.bandwidth, member)
    ordered = sorted(best.values(), key=lambda m: (m.bandwidth is None, m.bandwidth or 0, m.label))
    if not any(member.kind.startswith(EXACT) for member in ordered):
        return []
    most = max(member.num_images for member in ordered)
    fewer = {member for member in ordered if 0 < member.num_images < most}
    return [replace(m, label=f"{m.label}, M = {m.num_images:,}") if m in fewer else m for m in ordered]


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: over runs.
        std: sample standard deviation over runs (n - 1); None for a single run.
        n: how many runs; None where a publication does not count them.
        digits: decimals that are shown; None for two significant digits of ``error``, or without it four of ``mean``.
            An error that would be 0 at these decimals has two significant digits all the same.
        spread: what ``std`` is, where it is not that.
        error: standard error of one run's number over fresh noises, as many as were probed; of several runs the root
            mean square of theirs. It does not fall with the number of runs, for all of them share the fixed noises.
            None where none was recorded.
    """

    mean: float
    std: float | None = None
    n: int | None = 1
    digits: int | None = None
    spread: str = STD
    error: float | None = None

    def __str__(self) -> str:
        text = self._round(self.mean) + ("" if self.error is None else f" ± {self._round(self.error)}")
        if self.std is not None:
            text += f"{'' if self.error is None else ', seeds'} ± {self._round(self.std)}"
        return text + (f" ({self.n})" if self.n is not None and self.n > 1 else "")

    def _round(self, number: float) -> str:
        """To the given decimals, to two significant digits of the error, or to four of the mean."""
        if self.error and (self.digits is None or not round(self.error, self.digits)):
            return round_by_error(number, self.error)
        if self.digits is not None:
            return f"{number:.{self.digits}f}"
        exponent = math.floor(math.log10(abs(self.mean))) if self.mean else 0
        if self.std is None or not -3 <= exponent <= 6:
            return f"{number:.4g}"
        return f"{number:.{max(0, 3 - exponent)}f}"


def estimate(values: Iterable[float], digits: int | None = None) -> Estimate | None:
    """Mean and sample standard deviation; None without values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    std = statistics.stdev(finite) if len(finite) > 1 else None
    return Estimate(statistics.fmean(finite), std, len(finite), digits)


def combine(measured: Iterable[Measured], digits: int | None = None) -> Estimate | None:
    """Mean and sample standard deviation of the runs' numbers, and the standard error of one; None without any."""
    finite = [number for number in measured if math.isfinite(number.value)]
    mean = estimate((number.value for number in finite), digits)
    errors = [number.error for number in finite if number.error is not None]
    if mean is None or not errors:
        return mean
    return replace(mean, error=math.hypot(*errors) / math.sqrt(len(errors)))


def all_series(group: Group, select: Select) -> list[dict[int, Measured]]:
    """The numbers of the runs of a group that have any."""
    return [series for run in group.runs if (series := select(run))]


def last_values(group: Group, select: Select) -> tuple[int, list[Measured]] | None:
    """The last step that any run of the group has, and the numbers of the runs that have it."""
    every = all_series(group, select)
    if not every:
        return None
    step = max(max(series) for series in every)
    return step, [series[step] for series in every if step in series]


def last_estimate(group: Group, select: Select, digits: int | None = None) -> Estimate | None:
    """Mean and spread at the last step of the group."""
    last = last_values(group, select)
    return combine(last[1], digits) if last else None


def mean_curve(group: Group, select: Select) -> dict[int, Estimate]:
    """Mean and spread at every step that all runs with any values share."""
    every = all_series(group, select)
    shared = sorted(set.intersection(*(set(series) for series in every))) if every else []
    means = {step: combine(series[step] for series in every) for step in shared}
    return {step: mean for step, mean in means.items() if mean is not None}


def own(probe: str, key: str, scale: float = 1.0) -> Select:
    """Numbers that runs recorded themselves."""
    return of_kind("own", probe, key, scale)


def of_kind(kind: str, probe: str, key: str, scale: float = 1.0) -> Select:
    """Numbers of the folder of ``kind`` that is made like the run's own records."""

    def select(run: Run) -> dict[int, Measured]:
        probes = run.like_own(kind)
        return (
            {step: number.scaled(scale) for step, number in probes.measured_series(probe, key).items()}
            if probes
            else {}
        )

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
    groups = list(members.values())
    if group_by is not None:
        labels = [f"{group_by.rpartition('.')[2]}={config_value(group[0].config, group_by)}" for group in groups]
    else:
        labels = _labels(groups)
    return Comparison(tuple(Group(label, tuple(group)) for label, group in zip(labels, groups, strict=True)))


def _group_key(run: Run, group_by: str | None) -> Any:
    if group_by is not None:
        return str(config_value(run.config, group_by))
    # A model without a configuration, or one that was not trained here, is a group of its own.
    is_known = is_told_apart(run.config) and run.own.kind == "own"
    return tuple(sorted(_flat(run.config).items())) if is_known else run.path


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name not in LEFT_OUT:
            flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: str(value)}
    return flat


def _labels(groups: list[list[Run]]) -> list[str]:
    """What sets the groups apart: a few keys that differ, otherwise the names of their first runs."""
    counts = [group[0].name if len(group) == 1 else f"{len(group)} runs" for group in groups]
    if len(groups) == 1:
        return counts
    names = [group[0].name + (f" and {len(group) - 1} more" if len(group) > 1 else "") for group in groups]
    flats = [_flat(group[0].config) for group in groups]
    differing = [key for key in dict.fromkeys(k for f in flats for k in f) if len({f.get(key) for f in flats}) > 1]
    if not (0 < len(differing) <= _MOST_LABEL_KEYS and all(flats)):
        data = [group[0].data or group[0].data_class or "" for group in groups]
        labels = [f"{name}, {count}" for name, count in zip(data, counts, strict=True)]
        return labels if all(data) and len(set(data)) == len(data) else names
    return [", ".join(f"{key.rpartition('.')[2]}={flat.get(key, 'unset')}" for key in differing) for flat in flats]
