"""What runs recorded, as numbers with errors: of the networks of a group, or of an exact denoiser beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from probediff.report.groups import Comparison, Group, Member, members
from probediff.report.records import EXACT, ProbeRecords
from probediff.report.sources import Run
from probediff.report.verdicts.results import NETWORK, Results, analysed_kinds
from probediff.report.verdicts.rule import Claim, Number, Region, combine
from probediff.runs.definitions import find_redefined
from probediff.runs.folder import END_OF_EVENT, FINISHED

_GAUSSIAN = "gaussian"
#: By training step.
Curve = dict[int, Number]
#: What makes assignments comparable: all that noises and samples depend on but the number of steps.
Setting = tuple[object, ...]
_SETTING = ("num_samples", "convention", "clip", "weights", "ema_rate", "noise_seed", "dtype", "schedule")
#: What a replay shares with the run's own records beside what may stand beside them: it stands in for them.
_OF_OWN = ("weights", "ema_rate", "noise_seed", "dtype")


@dataclass(frozen=True)
class RunEvidence:
    """What one run says of its network, or of one exact denoiser.

    Attributes:
        run: the run.
        kind: ``NETWORK``, or that of the exact denoiser's folder.
    """

    run: Run
    kind: str = NETWORK

    @property
    def is_network(self) -> bool:
        """Whether it is about what was trained."""
        return self.kind == NETWORK

    @cached_property
    def results(self) -> Results:
        """What the analyses left below the run."""
        return Results(self.run, self.kind)

    @cached_property
    def folders(self) -> tuple[ProbeRecords, ...]:
        """The records, and after the run's own those of replays with its settings: these may have errors for them."""
        if not self.is_network:
            exact = self.run.like_own(self.kind)
            return () if exact is None else (exact,)
        own = self.run.own
        alike = (r for r in self.run.of_kind("replay") if not (r.differing_from(own) or _is_other_model(r, own)))
        return (own, *(r.without(r.other_options(own)) for r in alike))

    @cached_property
    def last_step(self) -> int | None:
        """Of the last whole event, or the end of the training: a number of then is that of the final model."""
        first = next(iter(self.folders), None)
        if first is None:
            return None
        ends = (r["step"] for r in first.records if r["probe"] in (END_OF_EVENT, FINISHED))
        return max(ends, default=first.last_step)

    def curve(self, probe: str, key: str) -> Curve:
        """A number by training step, without what is of an earlier definition.

        Where a record has no error for it and a replay with the same settings has one, it is the replay's.
        """
        found: Curve = {}
        for records in self.folders:
            for step, number in curve_of(records, probe, key).items():
                if step not in found or (found[step].error is None and number.error is not None):
                    found[step] = number
        return dict(sorted(found.items()))

    def final_samples_curve(self, probe: str, key: str) -> Curve:
        """The same of the final model's samples, which every checkpoint inverted."""
        records = self.run.like_own("final_samples")
        return {} if records is None else curve_of(records, probe, key)

    def last(self, probe: str, key: str) -> Number | None:
        """A number of the final model; None where it has none, though an earlier checkpoint may."""
        return None if self.last_step is None else self.curve(probe, key).get(self.last_step)

    def assignments(self, key: str) -> dict[Setting, dict[int, Number]]:
        """An accuracy of the final model: setting, of which N is the first -> number of DDIM steps -> number."""
        found: dict[Setting, dict[int, Number]] = {}
        for records in self._of_all_steps():
            num_steps, is_known = records.convention("num_steps"), records.convention("num_samples") is not None
            number = curve_of(records, "assignment_accuracy", key).get(records.last_step or 0)
            if number is not None and num_steps and is_known and records.convention("images") is None:
                setting = tuple(records.convention(name) for name in _SETTING)
                by_steps = found.setdefault(setting, {})
                if num_steps not in by_steps or by_steps[num_steps].error is None:
                    by_steps[num_steps] = number
        return found

    def _of_all_steps(self) -> Iterable[ProbeRecords]:
        """Folders of the final model, or of the exact denoiser, with any number of steps and samples."""
        if not self.is_network:
            return self.run.of_kind(self.kind)
        own = self.run.own
        others = self.run.of_kind("replay" if own.kind == NETWORK else own.kind)
        return (own, *(r for r in others if r.last_step == own.last_step))


def _is_other_model(replay: ProbeRecords, own: ProbeRecords) -> bool:
    """Whether a replay is of other weights or noises than the run's own records, or computed in another precision."""
    pairs = [(replay.convention(name), own.convention(name)) for name in _OF_OWN]
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def curve_of(records: ProbeRecords, probe: str, key: str) -> Curve:
    """A number in a folder of records by training step; none where any of them is of an earlier definition."""
    if any(key in find_redefined(probe, conventions) for conventions in records.conventions(probe)):
        return {}
    errors = records.standard_errors(probe)
    return {step: Number(v, errors.get(step, {}).get(key)) for step, v in records.series(probe, key).items()}


@dataclass(frozen=True)
class Evidence:
    """What the runs of a group say of their networks, or of one exact denoiser of their images.

    Attributes:
        group: the runs.
        kind: ``NETWORK``, or that of the exact denoiser's folders.
        label: how it is called.
        data: data set that published figures exist for; None for any other.
    """

    group: Group
    kind: str = NETWORK
    label: str = "network"
    data: str | None = None

    @cached_property
    def runs(self) -> tuple[RunEvidence, ...]:
        """One of each run."""
        return tuple(RunEvidence(run, self.kind) for run in self.group.runs)

    @property
    def is_network(self) -> bool:
        """Whether it is about what was trained."""
        return self.kind == NETWORK

    @property
    def is_trained_here(self) -> bool:
        """Whether there is a training to look back over."""
        return self.is_network and all(run.own.kind == NETWORK for run in self.group.runs)

    @cached_property
    def unfinished(self) -> str:
        """Which training has not ended, or not begun, in words; empty where all have ended."""
        runs = self.group.runs if self.is_network else ()
        if untrained := [r.name for r in runs if r.is_finished and r.own.kind == NETWORK and r.own.last_step == 0]:
            return f"nothing was trained: {', '.join(untrained)} ended at step 0"
        running = [run for run in runs if not run.is_finished]
        if not running:
            return ""
        steps = ", ".join(
            f"{run.name} has no records yet"
            if run.own.last_step is None
            else f"{run.name} is at step {run.own.last_step}" + (f" of {run.max_steps}" if run.max_steps else "")
            for run in running
        )
        return f"the training has not ended: {steps}"

    @property
    def model(self) -> str:
        """How commands call it."""
        return "RUN" if self.is_network else exact_spec(self.kind)

    def damage(self, name: str) -> str:
        """Which files of this name that an analysis left cannot be read, in words; empty for none."""
        return "; ".join(filter(None, (run.results.damage(name) for run in self.runs)))

    def mean(self, number_of: Callable[[RunEvidence], Number | None]) -> Number | None:
        """A number of each run, combined."""
        return combine(map(number_of, self.runs))

    def last(self, probe: str, key: str) -> Number | None:
        """A number of the final model, or of the exact denoiser."""
        return self.mean(lambda run: run.last(probe, key))

    def curve(self, probe: str, key: str) -> Curve:
        """A number by training step, at the steps that all runs with any have."""
        every = [curve for run in self.runs if (curve := run.curve(probe, key))]
        shared = sorted(set.intersection(*map(set, every))) if every else []
        combined = {step: combine(curve[step] for curve in every) for step in shared}
        return {step: number for step, number in combined.items() if number is not None}

    def cure(self, options: str = "") -> str:
        """How to record what a probe finds; ``options`` are those of the command beside the model."""
        folder = "replay" if self.is_network else self.kind
        last = " --checkpoints last" if self.is_network and not options else ""
        command = f"`probediff probe {self.model}{last}{options and f' {options}'}`"
        return f"{command} records it{self.move_away(folder, any(run.run.of_kind(folder) for run in self.runs))}"

    def move_away(self, folder: str, is_there: bool) -> str:
        """What a cure needs where results are there already, which a command would keep; empty where none are."""
        return f" (move the earlier RUN/probes/{folder} away before)" if is_there else ""

    def claim(self, quantity: str, region: Region, number: Number | None, null: Number | None = None) -> Claim:
        """A claim on a number of the final model that a probe records."""
        return Claim(quantity, region, number, None if null is None else null.value, self.cure())


def exact_spec(kind: str) -> str:
    """How commands call the exact denoiser of a folder of this name."""
    if kind == _GAUSSIAN:
        return "exact:RUN,h=1"
    name = kind.removeprefix(EXACT)
    return f"exact:RUN,{name}" if "=" in name.partition(",")[0] else f"exact:RUN,denoiser={name}"


def gather(comparison: Comparison, group: Group) -> list[Evidence]:
    """That of a group's networks, then that of each exact denoiser which was probed as they were."""
    found = [Evidence(group, data=comparison.data)]
    exact = {member.kind: member.label for member in members(group)}
    if not exact:
        # A lone Gaussian is no member of a family.
        gaussians = (records for run in group.runs if (records := run.like_own(_GAUSSIAN)) is not None)
        exact = {member.kind: member.label for member in map(Member.of, gaussians)}
    for kind in (kind for run in group.runs for kind in analysed_kinds(run)):
        name = exact_spec(kind).removeprefix("exact:RUN,").removeprefix("denoiser=")
        exact.setdefault(kind, name.replace("h=", "h = ", 1) if name.startswith("h=") else name)
    return found + [Evidence(group, kind, label, comparison.data) for kind, label in exact.items()]
