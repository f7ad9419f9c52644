"""The fixed point of the network's noise at one timestep (P2, eq. 7), its closed form for Gaussian data, and the slope
that tells which power of the covariance it shows.

For data from N(mu, S) the iteration from zero multiplies z_0 - mu along an eigenvector with eigenvalue s by

    g_n = sqrt((1 - a) / a) (1 - rho^n) / s,     rho = (1 - a) / (a s + 1 - a),     a = alpha_bar(t).

Its limit is proportional to S^-1. P2 compares it with ZCA whitening, S^(-1/2); but at a high timestep rho is so near to
1 that the slope of log g_n against log s runs through all values from 0 to -1 as n grows, and P2 does not say how many
iterations it made. A small residual does not mean a near limit either: the distance left is up to rho / (1 - rho) times
the residual. So every result here carries its iteration count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from probediff.ddim import EpsFunction
from probediff.denoisers.gaussian import GaussianDenoiser
from probediff.schedule import NoiseSchedule

OnIteration = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class FixedPointSettings:
    """How long to iterate.

    Attributes:
        max_iterations: The limit, 1 or more.
        tolerance: An image is finished when an iteration changes its noise by no more than this (root mean square over
            its values); 0 makes all `max_iterations`.
        anderson_memory: Combine the last so many changes (Anderson acceleration of type II); 0 is the paper's plain
            iteration. The accelerated one goes to the same limit, but its iterates on the way are others.
    """

    max_iterations: int = 100
    tolerance: float = 1e-4
    anderson_memory: int = 0

    def __post_init__(self) -> None:
        for name, value, smallest in (
            ("max_iterations", self.max_iterations, 1),
            ("anderson_memory", self.anderson_memory, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}, got {value!r}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be 0 or more and finite, got {self.tolerance}; 1e-4 is usual")


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """What `fixed_point` found.

    Attributes:
        eps: (B, C, H, W) the noises, in the dtype of the images.
        iterations: (B,) int64, network evaluations of each image.
        converged: (B,) bool, whether the last change was within the tolerance.
        residual: (iterations, B) float64, root mean square of eps_theta(...) - eps at each iteration; NaN for images
            that were finished before.
    """

    eps: Tensor
    iterations: Tensor
    converged: Tensor
    residual: Tensor


@torch.no_grad()
def fixed_point(
    eps_model: EpsFunction,
    schedule: NoiseSchedule,
    x_0: Tensor,
    timestep: int,
    settings: FixedPointSettings | None = None,
    start: Tensor | None = None,
    on_iteration: OnIteration | None = None,
) -> FixedPoint:
    """Repeat eps <- eps_model(sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, t) (P2, eq. 7).

    Images that are finished keep their noise and are not asked again, so no image depends on the others of its batch.

    Args:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``, in eval mode.
        schedule: The schedule that the model was trained with.
        x_0: (B, C, H, W) images in [-1, 1].
        timestep: 0..T-1; P2 uses 0.98 T.
        settings: How long; by default `FixedPointSettings()`.
        start: (B, C, H, W) first eps, by default zero: what is left of a random one after n iterations would be noise
            in the result.
        on_iteration: Called with the number of iterations made, from 1, and all current noises (B, C, H, W).

    Raises:
        ValueError: A timestep outside the schedule, images that are no float batch, a start of another shape, or a
            network that changes the shape or returns NaN or infinity.
    """
    settings = settings or FixedPointSettings()
    alpha_bar = _checked_alpha_bar(schedule, timestep)
    eps = _checked_start(x_0, start)
    open_rows = torch.arange(len(x_0), device=x_0.device)
    iterations = torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)
    history: list[tuple[Tensor, Tensor]] = []
    residuals: list[Tensor] = []
    while len(open_rows) and len(residuals) < settings.max_iterations:
        current = eps[open_rows]
        change = _asked(eps_model, alpha_bar, x_0[open_rows], current, timestep) - current
        history = [*history, (current, change)][-settings.anderson_memory - 1 :]
        size = change.double().flatten(1).square().mean(dim=1).sqrt()
        iterations[open_rows] += 1
        residuals.append(torch.full((len(x_0),), math.nan, dtype=torch.float64, device=x_0.device))
        residuals[-1][open_rows] = size
        # The last step is always a plain one: the result is what the network answered.
        finished = (size <= settings.tolerance) | (len(residuals) == settings.max_iterations)
        accelerated = _anderson_step(history)
        eps[open_rows] = torch.where(_as_rows(finished, current), current + change, accelerated)
        if on_iteration is not None:
            on_iteration(len(residuals), eps.clone())
        history = [(z[~finished], f[~finished]) for z, f in history]
        open_rows = open_rows[~finished]
    residual = torch.stack(residuals) if residuals else torch.zeros(0, len(x_0), dtype=torch.float64)
    last = residual.gather(0, (iterations - 1)[None])[0] if residuals else residual.new_zeros(0)
    return FixedPoint(eps, iterations, last <= settings.tolerance, residual)


def _as_rows(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (like.ndim - 1))


def _checked_alpha_bar(schedule: NoiseSchedule, timestep: int) -> float:
    if isinstance(timestep, bool) or not isinstance(timestep, int) or not 0 <= timestep < len(schedule):
        raise ValueError(f"timestep must be an integer in 0..{len(schedule) - 1}, got {timestep!r}")
    return float(schedule.alpha_bar[timestep])


def _checked_start(x_0: Tensor, start: Tensor | None) -> Tensor:
    if not x_0.is_floating_point() or x_0.ndim < 2:
        raise ValueError(f"x_0 must be a float batch (B, ...), got {x_0.dtype} of shape {tuple(x_0.shape)}")
    if start is None:
        return torch.zeros_like(x_0)
    if start.shape != x_0.shape:
        raise ValueError(f"start must have the shape of x_0, {tuple(x_0.shape)}, got {tuple(start.shape)}")
    return start.to(x_0, copy=True)


def _asked(eps_model: EpsFunction, alpha_bar: float, x_0: Tensor, eps: Tensor, timestep: int) -> Tensor:
    x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps
    answer = eps_model(x_t, torch.full((len(x_t),), timestep, dtype=torch.int64, device=x_t.device)).to(eps.dtype)
    if answer.shape != eps.shape:
        raise ValueError(f"eps_model must return the shape of its input, {tuple(eps.shape)}, got {tuple(answer.shape)}")
    if not bool(torch.isfinite(answer).all()):
        raise ValueError(
            f"eps_model must return finite values at timestep {timestep}, got NaN or infinity: the iteration diverges; "
            "allow fewer iterations, or another timestep"
        )
    return answer


def _anderson_step(history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The next iterate from pairs of an iterate and its change, (B, ...), oldest first (Walker & Ni 2011, eq. 2.1).

    With one pair this is the plain step. Solved by QR in float64: the changes are nearly parallel.
    """
    current, change = history[-1]
    plain = current + change
    if len(history) == 1 or len(current) == 0:
        return plain
    pairs = list(pairwise(history))
    moves = torch.stack([(b[0] - a[0]).flatten(1) for a, b in pairs], dim=2).double()
    turns = torch.stack([(b[1] - a[1]).flatten(1) for a, b in pairs], dim=2).double()
    # Scaled, and with a small ridge below, so that columns that are parallel or zero leave a solvable system.
    scale = turns.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    ridge = 1e-10 * torch.eye(turns.shape[2], dtype=torch.float64, device=turns.device).expand(len(turns), -1, -1)
    q, r = torch.linalg.qr(torch.cat([turns / scale, ridge], dim=1))
    target = torch.cat([change.double().flatten(1), turns.new_zeros(len(turns), turns.shape[2])], dim=1)
    weights = torch.linalg.solve_triangular(r, q.mT @ target[:, :, None], upper=True) / scale.mT
    return plain - ((moves + turns) @ weights).reshape(current.shape).to(current.dtype)


def gaussian_gain(eigenvalues: Tensor, alpha_bar: float, num_iterations: float = math.inf) -> Tensor:
    """g_n of the module's text for each eigenvalue, (D,) float64: what `fixed_point` does to Gaussian data.

    Args:
        eigenvalues: (D,) of the covariance, 0 or more.
        alpha_bar: At the timestep, strictly between 0 and 1.
        num_iterations: n from a zero start; infinity is the limit, itself infinite at the eigenvalue 0.

    Raises:
        ValueError: Out of these ranges.
    """
    if not 0 < alpha_bar < 1 or not num_iterations >= 0 or bool((eigenvalues < 0).any()):
        raise ValueError(
            f"alpha_bar must be in (0, 1), num_iterations and eigenvalues 0 or more, got {alpha_bar}, "
            f"{num_iterations} and a smallest eigenvalue of {float(eigenvalues.min())}"
        )
    ratio = eigenvalues.double() * (alpha_bar / (1 - alpha_bar))
    limit = (alpha_bar / (1 - alpha_bar)) ** 0.5 / ratio
    if math.isinf(num_iterations):
        return limit
    # rho = 1 / (1 + ratio); expm1 and log1p keep the digits where rho is nearly 1.
    grown = -torch.expm1(-num_iterations * torch.log1p(ratio))
    return torch.where(ratio > 0, limit * grown, num_iterations * (alpha_bar / (1 - alpha_bar)) ** 0.5)


def gaussian_fixed_point(
    denoiser: GaussianDenoiser, x_0: Tensor, timestep: int, num_iterations: float = math.inf
) -> Tensor:
    """The iterate number `num_iterations` (from zero) of `fixed_point` on Gaussian data, at once.

    Args:
        denoiser: The closed-form denoiser.
        x_0: (B, C, H, W) or (B, D).
        timestep: 0..T-1.
        num_iterations: As for `gaussian_gain`.

    Returns:
        eps in the shape and dtype of `x_0`.

    Raises:
        ValueError: As `gaussian_gain`, or an infinite gain.
    """
    gain = gaussian_gain(denoiser.eigenvalues, float(denoiser.signal_variance[timestep]), num_iterations)
    if not bool(torch.isfinite(gain).all()):
        raise ValueError("num_iterations must be finite for a covariance without full rank, got inf: the limit is not")
    centred = x_0.flatten(1).to(denoiser.mean) - denoiser.mean
    eps = ((centred @ denoiser.eigenvectors) * gain) @ denoiser.eigenvectors.T
    return eps.reshape(x_0.shape).to(x_0.dtype)


def matrix_gain(matrix: Tensor, directions: Tensor) -> Tensor:
    """(K,) float64 diagonal of U^T W U: the gain of a map W (D, D) along the unit columns U (D, K)."""
    return (directions.double() * (matrix.double() @ directions.double())).sum(dim=0)


@dataclass(frozen=True)
class GainSlope:
    """The weighted regression log gain = intercept + slope log eigenvalue.

    Attributes:
        slope: -1/2 for ZCA whitening, -1 for the limit of P2's iteration on Gaussian data, 0 for a multiple of x.
        standard_error: Of the slope, from the scatter about the line; 0 for an exact power.
        r2: Weighted; 1 says that the gain is a power of the eigenvalue, less that it only has this mean slope.
        num_directions: Directions used.
        num_excluded: Directions left out because their gain, eigenvalue or weight is not positive.
    """

    slope: float
    standard_error: float
    r2: float
    num_directions: int
    num_excluded: int


def gain_slope(eigenvalues: Tensor, gain: Tensor, weights: Tensor | None = None) -> GainSlope:
    """Log-log slope of a map's gain against the covariance's eigenvalue, by weighted least squares.

    Args:
        eigenvalues: (D,).
        gain: (D,) of a map along the eigenvectors: `gaussian_gain`, `DirectionalGains.gain`, or
            `matrix_gain`.
        weights: (D,) such as `DirectionalGains.weights`; by default all 1.

    Raises:
        ValueError: Shapes that differ, or fewer than three directions to use.
    """
    weights = torch.ones_like(gain) if weights is None else weights
    if not eigenvalues.shape == gain.shape == weights.shape:
        shapes = ", ".join(str(tuple(v.shape)) for v in (eigenvalues, gain, weights))
        raise ValueError(f"eigenvalues, gain and weights must have one shape, got {shapes}")
    used = (eigenvalues > 0) & (gain > 0) & (weights > 0) & torch.isfinite(gain)
    if int(used.sum()) < 3 or eigenvalues[used].min() == eigenvalues[used].max():
        raise ValueError(
            f"gain must be positive in at least 3 directions of different eigenvalue, got {int(used.sum())} of "
            f"{gain.numel()}; pass more images, whose gains are less noisy"
        )
    x, y, w = eigenvalues[used].double().log(), gain[used].double().log(), weights[used].double()
    w = w / w.sum()
    x, y = x - (w * x).sum(), y - (w * y).sum()
    slope = float((w * x * y).sum() / (w * x * x).sum())
    total, left = float((w * y * y).sum()), float((w * (y - slope * x).square()).sum())
    error = math.sqrt(left / float((w * x * x).sum()) / (len(x) - 2))
    return GainSlope(slope, error, 1 - left / total if total > 0 else 1.0, len(x), int((~used).sum()))
