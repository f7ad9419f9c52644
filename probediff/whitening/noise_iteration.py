"""Which noise does an image seem to consist of? Iterated until the network agrees with itself, at one timestep.

This is equation 7 of P2 (*First-step inference in diffusion models learns image de-whitening*). What it does to
Gaussian data, and why every result carries its iteration count: `probediff.whitening.gains`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.ddim import EpsFunction, as_predict
from probediff.inversion.anderson import anderson_step
from probediff.schedule import NoiseSchedule

OnIteration = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class IterationSettings:
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
        for name, smallest in (("max_iterations", 1), ("anderson_memory", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}, got {value!r}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be 0 or more and finite, got {self.tolerance}; 1e-4 is usual")


@dataclass(frozen=True, eq=False)
class NoiseIteration:
    """Where `iterate_noise` ended.

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
def iterate_noise(
    eps_model: EpsFunction,
    schedule: NoiseSchedule,
    x_0: Tensor,
    timestep: int,
    settings: IterationSettings | None = None,
    start: Tensor | None = None,
    on_iteration: OnIteration | None = None,
) -> NoiseIteration:
    """Repeat eps <- eps_model(sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, t) (P2, eq. 7).

    Images that are finished keep their noise and are not asked again, so no image depends on the others of its batch.

    Args:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``, in eval mode.
        schedule: The schedule that the model was trained with.
        x_0: (B, C, H, W) images in [-1, 1].
        timestep: 0..T-1; P2 uses 0.98 T.
        settings: How long; by default `IterationSettings()`.
        start: (B, C, H, W) first eps, by default zero: what is left of a random one after n iterations would be noise
            in the result.
        on_iteration: Called with the number of iterations made, from 1, and all current noises (B, C, H, W).

    Raises:
        ValueError: A timestep outside the schedule, images that are no float batch, a start of another shape, or a
            network that changes the shape or returns NaN or infinity.
    """
    settings = settings or IterationSettings()
    if isinstance(timestep, bool) or not isinstance(timestep, int) or not 0 <= timestep < len(schedule):
        raise ValueError(f"timestep must be an integer in 0..{len(schedule) - 1}, got {timestep!r}")
    predict, alpha_bar = as_predict(eps_model, schedule), float(schedule.alpha_bar[timestep])
    eps = _first_noise(x_0, start)
    open_rows = torch.arange(len(x_0), device=x_0.device)
    iterations = torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)
    history: list[tuple[Tensor, Tensor]] = []
    residuals: list[Tensor] = []
    while len(open_rows) and len(residuals) < settings.max_iterations:
        current = eps[open_rows]
        _, answer = predict(alpha_bar**0.5 * x_0[open_rows] + (1 - alpha_bar) ** 0.5 * current, timestep)
        _check_finite(answer, timestep)
        change = answer - current
        history = [*history, (current, change)][-settings.anderson_memory - 1 :]
        size = change.double().flatten(1).square().mean(dim=1).sqrt()
        iterations[open_rows] += 1
        residuals.append(torch.full((len(x_0),), math.nan, dtype=torch.float64, device=x_0.device))
        residuals[-1][open_rows] = size
        # The last step is always a plain one: the result is what the network answered.
        finished = (size <= settings.tolerance) | (len(residuals) == settings.max_iterations)
        is_last = finished.reshape(-1, *[1] * (current.ndim - 1))
        eps[open_rows] = torch.where(is_last, current + change, anderson_step(history))
        if on_iteration is not None:
            on_iteration(len(residuals), eps.clone())
        history = [(z[~finished], f[~finished]) for z, f in history]
        open_rows = open_rows[~finished]
    residual = torch.stack(residuals) if residuals else torch.zeros(0, len(x_0), dtype=torch.float64)
    last = residual.gather(0, (iterations - 1)[None])[0] if residuals else residual.new_zeros(0)
    return NoiseIteration(eps, iterations, last <= settings.tolerance, residual)


def _first_noise(x_0: Tensor, start: Tensor | None) -> Tensor:
    if not x_0.is_floating_point() or x_0.ndim < 2:
        raise ValueError(f"x_0 must be a float batch (B, ...), got {x_0.dtype} of shape {tuple(x_0.shape)}")
    if start is None:
        return torch.zeros_like(x_0)
    if start.shape != x_0.shape:
        raise ValueError(f"start must have the shape of x_0, {tuple(x_0.shape)}, got {tuple(start.shape)}")
    return start.to(x_0, copy=True)


def _check_finite(eps: Tensor, timestep: int) -> None:
    if not bool(torch.isfinite(eps).all()):
        raise ValueError(
            f"eps_model must return finite values at timestep {timestep}, got NaN or infinity: the iteration diverges; "
            "allow fewer iterations, or another timestep"
        )
