"""Which predictor foretells the images of networks, noise by noise, at every training step.

Predictors are exact denoisers, networks of other seeds, which bound what can be foretold (the ceiling), and the
network's own final samples. The question is that of Kamb & Ganguli (arXiv 2412.20292) and of Lukoianov et al.
(arXiv 2509.09672), who ask it of trained networks.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probediff.measures import cka, image_r2, ssim
from probediff.measures.similarity_errors import cka_errors
from probediff.measures.uncertainty import WithError, mean_with_error, split_errors
from probediff.probing.stored_runs import StoredRun
from probediff.runs.comparison import ANOTHER_SEED, DENOISER, OWN_FINAL
from probediff.runs.record import STANDARD_ERRORS


class Predicted(NamedTuple):
    """The images that an exact denoiser makes from the fixed noises.

    Attributes:
        denoiser: which one.
        images: M that it is fitted to.
        x_0: (N, C, H, W).
    """

    denoiser: str
    images: int
    x_0: Tensor


@dataclass(frozen=True)
class Likeness:
    """How alike predicted images and those of a network are.

    Attributes:
        of_each: numbers of each image, (N,), by name; ``_null`` are those of images of other noises.
        cka_debiased: of the two sets.
        errors: why a number is not there.
    """

    of_each: dict[str, Tensor]
    cka_debiased: WithError | None
    errors: tuple[str, ...]

    @classmethod
    def of(cls, x: Tensor, reference: Tensor) -> "Likeness":
        """That of (N, C, H, W) images to those of a network from the same noises."""
        of_each, cka_debiased, errors = dict[str, Tensor](), None, list[str]()
        others, grey = x.roll(1, 0), reference.clamp(-1, 1)
        try:
            of_each |= {"r2": image_r2(x, reference), "r2_null": image_r2(others, reference)}
        except ValueError as error:
            errors.append(f"r2: {error}")
        try:
            of_each |= {"ssim": ssim(x.clamp(-1, 1), grey), "ssim_null": ssim(others.clamp(-1, 1), grey)}
        except ValueError as error:
            errors.append(f"ssim: {error}")
        try:
            cka_debiased = WithError(cka(x, reference, debiased=True), cka_errors(x, reference)[1])
        except ValueError as error:
            errors.append(f"cka_debiased: {error}")
        return cls(of_each, cka_debiased, tuple(errors))

    def row(self) -> dict[str, Any]:
        """Values with their standard errors over images, for the result."""
        numbers = {name: mean_with_error(values) for name, values in self.of_each.items()}
        if self.cka_debiased is not None:
            numbers["cka_debiased"] = self.cka_debiased
        values, errors = split_errors(numbers)
        return {"values": values, STANDARD_ERRORS: errors, **({"error": "; ".join(self.errors)} if self.errors else {})}


@dataclass
class Prediction:
    """What predicts the images of networks; all lists are those of the result.

    Attributes:
        rows: of exact denoisers: predictor, run and step, with values and standard errors over images.
        ceiling: of networks of other seeds.
        own_final: of the run's own last samples at its earlier steps.
        means: each kind of predictor at each step: means over runs, with standard errors over images and, of several
            runs, the standard deviation over them.
        left_out: what could not be compared, one sentence each.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ceiling: list[dict[str, Any]] = field(default_factory=list)
    own_final: list[dict[str, Any]] = field(default_factory=list)
    means: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def measure_predictions(runs: Sequence[StoredRun], denoisers: Sequence[Predicted], num_samples: int) -> Prediction:
    """Compare the samples of exact denoisers with those that runs stored, at every step.

    Args:
        runs: which share noises, steps and data.
        denoisers: their samples.
        num_samples: N.

    Raises:
        ValueError: no samples of any run can be read.
    """
    found, finals = Prediction(), dict[str, tuple[int, Tensor]]()
    for step in sorted({step for run in runs for step in run.events}):
        stored = dict(_read(runs, step, num_samples, found.left_out))
        for denoiser, images, x_0 in denoisers:
            which = {"denoiser": denoiser, "images": images}
            alike = {run: Likeness.of(x_0, samples) for run, samples in stored.items()}
            found.rows += [{**which, "run": run, "step": step, **each.row()} for run, each in alike.items()]
            found.means += _mean({"predictor": DENOISER, **which, "step": step}, list(alike.values()))
        _add_ceiling(found, runs, stored, step)
        finals |= {run: (step, x_0) for run, x_0 in stored.items()}
    if not finals:
        raise ValueError(f"RUN must hold samples that can be read, got none: {'; '.join(found.left_out)}")
    _add_own_final(found, runs, finals, num_samples)
    lost = (row["error"] for row in (*found.rows, *found.ceiling, *found.own_final) if "error" in row)
    found.left_out += [f"numbers are left out: {error}" for error in dict.fromkeys(lost)]
    return found


def _read(runs: Iterable[StoredRun], step: int, count: int, left_out: list[str]) -> Iterator[tuple[str, Tensor]]:
    for run in runs:
        if step in run.events:
            try:
                yield run.name, run.samples(step, count)
            except (OSError, ValueError) as error:
                left_out.append(f"step {step} of {run.name} is left out: {error}")


def _add_ceiling(found: Prediction, runs: Sequence[StoredRun], stored: Mapping[str, Tensor], step: int) -> None:
    """How well networks of other seeds foretell the images of each."""
    alike = []
    for run, other in permutations([run for run in runs if run.name in stored], 2):
        if None not in (run.seed, other.seed) and run.seed != other.seed:
            alike.append(Likeness.of(stored[other.name], stored[run.name]))
            found.ceiling.append({"run": run.name, "other_run": other.name, "step": step, **alike[-1].row()})
    # The two directions of a pair, and pairs that share a run, say too much of the same for a spread over runs.
    means = _mean({"predictor": ANOTHER_SEED, "step": step}, alike)
    found.means += [{**mean, "std_over_runs": {}, "num_runs": len(stored)} for mean in means]


def _add_own_final(
    found: Prediction, runs: Sequence[StoredRun], finals: Mapping[str, tuple[int, Tensor]], count: int
) -> None:
    """How well each run's last samples foretell its earlier ones."""
    by_step: dict[int, list[Likeness]] = {}
    for run in (run for run in runs if run.name in finals):
        final_step, final = finals[run.name]
        for step in sorted(step for step in run.events if step < final_step):
            for name, x_0 in _read([run], step, count, left_out=[]):
                likeness = Likeness.of(final, x_0)
                row = {"run": name, "step": step, "final_step": final_step, **likeness.row()}
                found.own_final.append(row)
                by_step.setdefault(step, []).append(likeness)
    for step, of_runs in sorted(by_step.items()):
        found.means += _mean({"predictor": OWN_FINAL, "step": step}, of_runs)


def _mean(of: dict[str, Any], of_runs: Sequence[Likeness]) -> list[dict[str, Any]]:
    """One entry with the means over runs; none without any.

    All runs share their noises: the standard error is that of the mean over runs, from image to image.
    """
    if not of_runs:
        return []
    names = dict.fromkeys(name for likeness in of_runs for name in likeness.of_each)
    known = {name: [a.of_each[name] for a in of_runs if name in a.of_each] for name in names}
    numbers: dict[str, WithError | float] = {
        name: mean_with_error(torch.stack(rows).mean(dim=0)) for name, rows in known.items()
    }
    spreads = {name: [float(row.mean()) for row in rows] for name, rows in known.items()}
    ckas = [likeness.cka_debiased for likeness in of_runs if likeness.cka_debiased is not None]
    if ckas:
        spreads["cka_debiased"] = [number.value for number in ckas]
        numbers["cka_debiased"] = ckas[0] if len(of_runs) == 1 else statistics.fmean(spreads["cka_debiased"])
    values, errors = split_errors(numbers)
    std_over_runs = {name: statistics.stdev(each) for name, each in spreads.items() if len(each) > 1}
    how_many = {"num_runs": len(of_runs), "std_over_runs": std_over_runs}
    return [{**of, "values": values, STANDARD_ERRORS: errors, **how_many}]
