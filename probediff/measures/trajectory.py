"""Where the sampling trajectory passes the latent: distances of x_t to the noise-latent segment (P1, figure 3).

P1 is *There and Back Again*.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from probediff.measures._rows import check_at_least, same_shape_rows
from probediff.measures.uncertainty import NUM_GROUPS, jackknife_error

# 512 KiB of float64: chunks of this size stay in a core's cache between the three passes over them.
_CACHE_ELEMENTS = 2**16


class SamplingStep(Protocol):
    """One finished sampling step: what this module reads of a `DDIMStep`."""

    @property
    def index(self) -> int:
        """0..num_steps-1, in the order of execution."""

    @property
    def x(self) -> Tensor:
        """(B, C, H, W) state after the step."""


@dataclass(frozen=True)
class TrajectoryDistances:
    """Inner products that give every distance between N trajectories and their noise-latent segments.

    Attributes:
        squared_from_noise: (N, S) float64, |x_t - x_T|^2.
        along_latent: (N, S) float64, (x_t - x_T) . (latent - x_T).
        squared_latent: (N,) float64, |latent - x_T|^2.
        step_fraction: (S,) float64 in (0, 1], ascending: share of the sampling steps done at x_t.
    """

    squared_from_noise: Tensor
    along_latent: Tensor
    squared_latent: Tensor
    step_fraction: Tensor

    @classmethod
    def cat(cls, parts: Sequence["TrajectoryDistances"]) -> "TrajectoryDistances":
        """All samples of several batches, in order.

        Raises:
            ValueError: No batch, or batches kept at different steps.
        """
        if not parts:
            raise ValueError("parts must hold at least one batch, got none; record a trajectory first")
        fraction = parts[0].step_fraction
        if any(not torch.equal(part.step_fraction, fraction) for part in parts):
            raise ValueError("parts must be kept at the same steps, got different step_fraction; use one num_steps")
        return cls(
            torch.cat([part.squared_from_noise for part in parts]),
            torch.cat([part.along_latent for part in parts]),
            torch.cat([part.squared_latent for part in parts]),
            fraction,
        )


class TrajectoryRecorder:
    """Keeps the states of one batch at evenly chosen sampling steps until its latents are known.

    Memory is at most `max_points` times the batch.

    Args:
        num_steps: Steps of the sampler that `on_step` is handed to.
        max_points: States kept; the last step always is.

    Raises:
        ValueError: One of them under 1.
    """

    def __init__(self, num_steps: int, max_points: int = 100) -> None:
        check_at_least("num_steps", num_steps, 1)
        check_at_least("max_points", max_points, 1)
        self.num_steps = num_steps
        count = min(num_steps, max_points)
        self._due = {(k + 1) * num_steps // count - 1 for k in range(count)}
        self._kept: dict[int, Tensor] = {}

    @property
    def step_fraction(self) -> Tensor:
        """(S,) float64, ascending: share of the sampling steps done at the states that are kept."""
        return torch.tensor([(step + 1) / self.num_steps for step in sorted(self._due)], dtype=torch.float64)

    def on_step(self, step: SamplingStep) -> None:
        """Keep the state if the step is one of the chosen ones; hand this to `ddim_sample`."""
        if step.index in self._due:
            # A copy: a sampler may go on in the same memory.
            self._kept[step.index] = step.x.detach().clone()

    def distances(self, x_T: Tensor, latent: Tensor) -> TrajectoryDistances:
        """The inner products of the recorded batch, summed in float64, on the CPU.

        Args:
            x_T: (B, C, H, W) noise that sampling started from.
            latent: (B, C, H, W) inversions of its images.

        Raises:
            ValueError: Steps are missing, or shapes differ from the recorded ones.
        """
        if set(self._kept) != self._due:
            raise ValueError(
                f"the recorder must see all {self.num_steps} steps before its distances are taken, got "
                f"{len(self._kept)} of the {len(self._due)} it keeps; pass on_step to the sampler of this batch"
            )
        steps = sorted(self._due)
        first = self._kept[steps[0]]
        x_T, latent = x_T.to(first.device), latent.to(first.device)
        noise_rows, latent_rows, _ = same_shape_rows(x_T=x_T, latent=latent, recorded=first)
        size = max(1, _CACHE_ELEMENTS // noise_rows.shape[1])
        parts = [self._products(slice(k, k + size), noise_rows, latent_rows) for k in range(0, len(first), size)]
        from_noise, along, squared = (torch.cat(column) for column in zip(*parts, strict=True))
        return TrajectoryDistances(from_noise.cpu(), along.cpu(), squared.cpu(), self.step_fraction)

    def _products(self, rows: slice, noise: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some samples: (n, S), (n, S) and (n,)."""
        start = noise[rows].double()
        side = latent[rows].double() - start
        from_noise, along = [], []
        for step in sorted(self._due):
            moved = self._kept[step][rows].flatten(1).double().sub_(start)
            from_noise.append(torch.linalg.vecdot(moved, moved))
            along.append(torch.linalg.vecdot(moved, side))
        return torch.stack(from_noise, dim=1), torch.stack(along, dim=1), torch.linalg.vecdot(side, side)


def heat_map(distances: TrajectoryDistances, lambdas: Tensor) -> Tensor:
    """Mean L2 distance of x_t to (1 - lambda) x_T + lambda latent over the samples, (S, L) float64 (P1, figure 3).

    |x_t - x_T|^2 - 2 lambda (x_t - x_T).(latent - x_T) + lambda^2 |latent - x_T|^2 is the squared distance; what
    rounding leaves under 0 counts as 0.

    Args:
        distances: From a `TrajectoryRecorder`.
        lambdas: (L,) places on the segment, 0 the noise and 1 the latent.

    Raises:
        ValueError: `lambdas` is not (L,) with L > 0, or not finite.
    """
    if lambdas.ndim != 1 or len(lambdas) == 0 or not bool(torch.isfinite(lambdas).all()):
        raise ValueError(f"lambdas must be (L,) finite numbers with L > 0, got shape {tuple(lambdas.shape)}")
    columns = []
    for place in lambdas.double().tolist():
        squares = torch.add(distances.squared_from_noise, distances.along_latent, alpha=-2 * place)
        squares += place**2 * distances.squared_latent[:, None]
        columns.append(squares.clamp_(min=0).sqrt_().mean(dim=0))
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class ClosestApproach:
    """Where the mean distance of the trajectories is smallest.

    Attributes:
        closest_to_latent_step_fraction: share of steps done where the trajectory is nearest to the latent itself.
        closest_to_latent_distance: its mean distance there.
        noise_latent_distance: mean distance of noise and latent, from which the trajectory starts: the null of
            `closest_to_latent_distance`.
        closest_step_fraction, closest_lambda: share of steps and place at which the distance is smallest in proportion
            to that from the noise at the same step. Not in proportion, it is always smallest in the first steps,
            which have hardly left the noise.
        latent_nearest_from_step_fraction: share of steps from which on no other place of the segment is nearer than
            the latent (P1: t_0); NaN if some place is nearer at the last step.
    """

    closest_to_latent_step_fraction: float
    closest_to_latent_distance: float
    noise_latent_distance: float
    closest_step_fraction: float
    closest_lambda: float
    latent_nearest_from_step_fraction: float


def closest_approach(distances: TrajectoryDistances, lambdas: Tensor) -> ClosestApproach:
    """Where sampling trajectories pass the latent (P1: after 50 to 70 % of the steps).

    Args:
        distances: From a `TrajectoryRecorder`.
        lambdas: (L,) ascending from 0 to 1, L at least 2.

    Raises:
        ValueError: Other `lambdas`, or latents that equal their noises in every sample.
    """
    _check_places(lambdas)
    scale = float(distances.squared_latent.sqrt().mean())
    if scale == 0:
        raise ValueError("latents must differ from their noises, got equal ones; the segment between them is a point")
    return _closest(heat_map(distances, lambdas), scale, distances.step_fraction, lambdas)


def closest_approach_errors(distances: TrajectoryDistances, lambdas: Tensor) -> dict[str, float]:
    """Standard errors of the attributes of `closest_approach` over fresh noises, by name (delete-a-group jackknife).

    Steps and places are those of a grid: half a cell, as the standard deviation of a uniform number, is part of their
    errors.

    Args:
        distances: As for `closest_approach`.
        lambdas: Likewise.

    Returns:
        NaN where there are fewer than two trajectories, or the attribute is NaN without a group.

    Raises:
        ValueError: As `closest_approach`.
    """
    _check_places(lambdas)
    count, fraction = len(distances.squared_latent), distances.step_fraction
    group = torch.arange(count) % NUM_GROUPS
    members = [group == index for index in range(int(group.max()) + 1)]
    sums = torch.stack([heat_map(_only(distances, of), lambdas) * of.sum() for of in members])
    scales = torch.stack([distances.squared_latent[of].sqrt().sum() for of in members])
    left = (count - torch.stack([of.sum() for of in members])).double().clamp(min=1)
    maps, scale = (sums.sum(dim=0) - sums) / left[:, None, None], (scales.sum() - scales) / left
    rows = [asdict(_closest(one, float(s), fraction, lambdas)) for one, s in zip(maps, scale, strict=True)]
    names = [field.name for field in fields(ClosestApproach)]
    errors = {name: jackknife_error(torch.tensor([row[name] for row in rows], dtype=torch.float64)) for name in names}
    errors["closest_to_latent_step_fraction"] = jackknife_error(
        torch.stack([_lowest(m[:, -1], fraction) for m in maps])
    )
    for name in names:
        if name.endswith(("_fraction", "_lambda")):
            cell = 1 / len(fraction) if name.endswith("_fraction") else 1 / (len(lambdas) - 1)
            errors[name] = math.hypot(errors[name], cell / math.sqrt(12))
    return errors


def _only(distances: TrajectoryDistances, members: Tensor) -> TrajectoryDistances:
    d = distances
    rows = [part[members] for part in (d.squared_from_noise, d.along_latent, d.squared_latent)]
    return TrajectoryDistances(rows[0], rows[1], rows[2], d.step_fraction)


def _lowest(curve: Tensor, places: Tensor) -> Tensor:
    """Where a curve is lowest, between the points: the vertex of the parabola through the lowest and its neighbours."""
    index = int(curve.argmin())
    if not 0 < index < len(curve) - 1:
        return places[index]
    before, lowest, after = curve[index - 1 : index + 2]
    bend = before - 2 * lowest + after
    shift = (before - after) / (2 * bend) if bend > 0 else torch.zeros_like(bend)
    return places[index] + shift * (places[index + 1] - places[index - 1]) / 2


def _check_places(lambdas: Tensor) -> None:
    ascending = lambdas.ndim == 1 and len(lambdas) > 1 and bool((lambdas.diff() > 0).all())
    if not ascending or lambdas[0] != 0 or lambdas[-1] != 1:
        raise ValueError("lambdas must ascend from 0 to 1, got others; use torch.linspace(0, 1, L)")


def _closest(mean: Tensor, scale: float, fraction: Tensor, lambdas: Tensor) -> ClosestApproach:
    """From the (S, L) mean distances."""
    at_latent = int(mean[:, -1].argmin())
    from_noise = mean[:, :1]
    relative = torch.where(from_noise > 0, mean / from_noise, torch.inf)
    step, place = divmod(int(relative.argmin()), len(lambdas))
    elsewhere = (mean.argmin(dim=1) != len(lambdas) - 1).nonzero().flatten()
    first = int(elsewhere[-1]) + 1 if len(elsewhere) else 0
    return ClosestApproach(
        closest_to_latent_step_fraction=float(fraction[at_latent]),
        closest_to_latent_distance=float(mean[at_latent, -1]),
        noise_latent_distance=scale,
        closest_step_fraction=float(fraction[step]),
        closest_lambda=float(lambdas[place]),
        latent_nearest_from_step_fraction=float(fraction[first]) if first < len(fraction) else math.nan,
    )
