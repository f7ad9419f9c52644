"""Fixed-point inversion: iterate to invert each of the sampler's steps (AIDI, Pan et al. 2023, arXiv 2309.04907).

The state x_i that the sampler moved to x_(i-1) solves z = sqrt(a_i / a_(i-1)) x_(i-1) + b_i eps(z, t_i); see
``Walk.preimage_map``. From z = x_(i-1) this is iterated ``iterations`` times, damped, or by Anderson acceleration of
type II (Walker & Ni 2011, eq. 2.1; AIDI's algorithm with memory m), which combines the last iterates such that their
residuals cancel. num_steps * iterations evaluations. The number of iterations is fixed, so that no row depends on the
others of its batch.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from probediff.ddim import OnStep, State
from probediff.inversion.problem import Problem, Walk
from probediff.inversion.settings import InversionSettings

# Relative to the columns' own squares; keeps the small systems solvable when residuals are parallel or zero.
_RIDGE = 1e-10


@torch.no_grad()
def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """Estimates of the noise that the sampler turned into ``state.x``."""
    walk, x = Walk(problem, on_step), state.x
    for level in range(1, problem.num_steps + 1):
        x = _solved(walk, x, level, settings)
    return State(x)


def _solved(walk: Walk, x: Tensor, level: int, settings: InversionSettings) -> Tensor:
    z, gain = x, 1 - settings.damping
    history: list[tuple[Tensor, Tensor]] = []
    for _ in range(settings.iterations):
        mapped, x_0 = walk.preimage_map(z, x, level)
        history = [*history, (z, mapped - z)][-settings.anderson_memory - 1 :]
        z = anderson_step(history, gain)
        walk.report_preimage(level, z, x_0)
    return z


def anderson_step(history: list[tuple[Tensor, Tensor]], gain: float) -> Tensor:
    """The next iterate, from pairs of an iterate and its residual g(z) - z, (B, ...) each and oldest first.

    With one pair this is z + gain (g(z) - z).
    """
    z, residual = history[-1]
    step = gain * residual
    if len(history) > 1:
        steps_z = torch.stack([b[0] - a[0] for a, b in itertools.pairwise(history)], dim=1)
        steps_r = torch.stack([b[1] - a[1] for a, b in itertools.pairwise(history)], dim=1)
        weights = _least_squares(steps_r.flatten(2), residual.flatten(1)).to(z.dtype)
        step = step - torch.einsum("bm,bm...->b...", weights, steps_z + gain * steps_r)
    return z + step


def _least_squares(columns: Tensor, target: Tensor) -> Tensor:
    """(B, m) weights of ``columns`` (B, m, D) that come nearest to ``target`` (B, D), in float64."""
    columns, target = columns.double(), target.double()
    scale = columns.norm(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    columns = columns / scale
    eye = torch.eye(columns.shape[1], dtype=torch.float64, device=columns.device)
    gram = columns @ columns.mT + _RIDGE * eye
    weights = torch.linalg.solve(gram, (columns @ target[:, :, None]))
    return (weights / scale)[:, :, 0]
