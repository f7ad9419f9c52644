"""Guided Newton-Raphson inversion (GNRI, Samuel et al. 2023/2025, arXiv 2312.12540v5).

With g the fixed-point map of a sampling step (``Walk.preimage_map``), the root of the scalar

    F(z) = mean |z - g(z)| + lambda mean (z - mu)² / (2 beta)

is sought from z = x_(i-1) by Newton's method; the second term, the guidance, is the negative logarithm of the forward
process q(x_i | x_(i-1)) = N(mu, beta I) up to a constant. One equation for D unknowns is shared out equally, as
published: each coordinate takes z_k - F / (D dF/dz_k). The slope is bounded away from 0, and each image keeps the
estimate of least F, as in the authors' code (which, however, does not differentiate through the network, and whose
guidance is another). num_steps * newton_iterations evaluations, each but a step's last with a gradient through the
network, which costs about two more.
"""

import torch
from torch import Tensor

from probediff.inversion.problem import Walk
from probediff.inversion.settings import InversionSettings

# Of D dF/dz_k, which is 1 in size where the network does not depend on z. A choice of ours: it bounds a coordinate's
# step to twice the mean residual.
_SMALLEST_SLOPE = 0.5


def estimate_preimage(walk: Walk, x: Tensor, level: int, settings: InversionSettings) -> Tensor:
    """The estimate of least F for one of the sampler's steps."""
    z = best = x
    least = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for iteration in range(settings.newton_iterations):
        is_last = iteration == settings.newton_iterations - 1
        with torch.set_grad_enabled(not is_last):
            z = z.detach().requires_grad_(not is_last)
            mapped, x_0 = walk.preimage_map(z, x, level)
            objective = _objective(walk, z, mapped, x, level, settings.newton_prior_weight)
        walk.report_preimage(level, mapped, x_0)
        better = objective.detach() < least
        best = torch.where(_as_rows(better, x), mapped.detach(), best)
        least = torch.where(better, objective.detach(), least)
        if not is_last:
            z = _newton_step(z, objective)
    return best


def _objective(walk: Walk, z: Tensor, mapped: Tensor, x: Tensor, level: int, prior_weight: float) -> Tensor:
    """(B,) F at ``z``, whose image under the fixed-point map is ``mapped``."""
    kept = walk.levels[level] / walk.levels[level - 1]
    residual = (z - mapped).abs().flatten(1).mean(dim=1)
    guidance = (z - kept**0.5 * x).square().flatten(1).mean(dim=1) / (2 * (1 - kept))
    return residual + prior_weight * guidance


def _newton_step(z: Tensor, objective: Tensor) -> Tensor:
    # Asked for z alone, so that the weights' gradients stay as they are.
    (gradient,) = torch.autograd.grad(objective, z, torch.ones_like(objective))
    slope = gradient * z.shape[1:].numel()
    bounded = torch.where(slope < 0, -1.0, 1.0) * slope.abs().clamp(min=_SMALLEST_SLOPE)
    return z.detach() - _as_rows(objective.detach(), z) / bounded


def _as_rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
