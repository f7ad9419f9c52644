"""Whether probes that ran again on a run's checkpoints found what the run recorded, and if not, what differs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probediff.runs.conditions import CONDITIONS, WEIGHTS, differing_settings
from probediff.runs.definitions import definitions_of, find_redefined
from probediff.runs.folder import END_OF_EVENT, FINISHED, RunFolder

_NOT_MEASURED = (END_OF_EVENT, FINISHED)


@dataclass(frozen=True)
class Difference:
    """The largest difference between two records of one quantity.

    Attributes:
        relative: to the larger of the two.
        key: the quantity.
        step: of the two records.
        there: in the run.
        here: now; either is None where it was not finite.
    """

    relative: float
    key: str
    step: int
    there: float | None
    here: float | None


@dataclass
class Comparison:
    """What ``compare_with_run`` finds.

    Attributes:
        settings: that differ, so that the numbers are not to be compared: key -> (there, here).
        compared: records with a twin of the same probe and step.
        equal: how many of them have exactly the same numbers.
        largest: the largest difference of each probe that has one.
        num_different: how many of its records differ.
        conditions: key -> (there, here), of those that both recorded.
        new: conventions and quantities that are recorded now and not then.
        redefined: quantities that are computed otherwise now, which are not compared -> how.
        other_weights: steps whose weights are others than those that were probed.
    """

    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    compared: int = 0
    equal: int = 0
    largest: dict[str, Difference] = field(default_factory=dict)
    num_different: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    redefined: dict[str, str] = field(default_factory=dict)
    other_weights: set[int] = field(default_factory=set)

    def in_words(self) -> list[str]:
        """Lines for people; none where there is nothing to compare."""
        if self.settings:
            return [f"no replay of what the run recorded: {_pairs(self.settings)}"]
        if not self.compared:
            return []
        lines = [f"{self.equal} of {self.compared} records have exactly the numbers that the run recorded"]
        for probe, most in sorted(self.largest.items()):
            lines.append(
                f"  {probe}: {self.num_different[probe]} record(s) differ, most {most.key} at step {most.step}, "
                f"{most.there} there, {most.here} here (relative {most.relative:.1e})"
            )
        if self.other_weights:
            lines.append(f"  other weights than those that were probed: step {_join(self.other_weights)}")
        if self.conditions:
            lines.append(f"  other conditions: {_pairs(self.conditions)}")
        if self.redefined:
            words = "; ".join(f"{key} is {how}" for key, how in sorted(self.redefined.items()))
            lines.append(f"  not compared, for it is defined otherwise now: {words}")
        if self.new:
            lines.append(f"  recorded now and not then: {_join(self.new)}")
        return lines


def _pairs(differing: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{key} {there!r} there, {here!r} here" for key, (there, here) in differing.items())


def _join(values: set[Any]) -> str:
    return ", ".join(map(str, sorted(values)))


def compare_with_run(folder: RunFolder, run: Path) -> Comparison:
    """Compare records with those of ``run`` of the same probe and step; durations do not count.

    Raises:
        ValueError: records that cannot be read.
    """
    theirs = {(r["step"], r["probe"]): r for r in RunFolder(run).records() if r["probe"] not in _NOT_MEASURED}
    result = Comparison()
    for record in folder.records():
        twin = theirs.get((record["step"], record["probe"]))
        if twin is None:
            continue
        there, here = twin["conventions"], record["conventions"]
        result.settings |= differing_settings(there, here)
        result.new |= here.keys() - there.keys()
        result.conditions |= {
            key: (there[key], here[key]) for key in CONDITIONS if key in there and there[key] != here.get(key)
        }
        if WEIGHTS in twin and WEIGHTS in record and twin[WEIGHTS] != record[WEIGHTS]:
            result.other_weights.add(record["step"])
        result.compared += 1
        _compare_values(result, twin, record)
    return result


def _compare_values(result: Comparison, twin: dict[str, Any], record: dict[str, Any]) -> None:
    probe: str = record["probe"]
    there: dict[str, Any] = dict(twin["values"])
    here: dict[str, Any] = dict(record["values"])
    for key in find_redefined(probe, twin["conventions"]):
        if there.pop(key, None) is not None:
            result.redefined[f"{probe} {key}"] = definitions_of(probe)[key]
        here.pop(key, None)
    if there:  # a record without any had an error
        added = here.keys() - there.keys()
        result.new |= {f"{probe} {key}" for key in added}
        here = {key: value for key, value in here.items() if key not in added}
    if there == here:
        result.equal += 1
        return
    result.num_different[probe] = result.num_different.get(probe, 0) + 1
    for key in there.keys() | here.keys():
        old, new = there.get(key), here.get(key)
        if old == new:
            continue
        relative = float("inf") if old is None or new is None else abs(old - new) / max(abs(old), abs(new))
        if probe not in result.largest or relative > result.largest[probe].relative:
            result.largest[probe] = Difference(relative, key, record["step"], old, new)
