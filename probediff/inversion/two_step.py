"""Exact inversion by explicit two-step schemes, the form that BDIA and O-BELM share.

With D_ij the DDIM move of x_i from level i to j along eps(x_i, t_i), the sampler takes

    x_(i-1) = D_(i,i-1) + gamma_i (x_(i+1) - D_(i,i+1)),

which can be solved for x_(i+1) as well as for x_(i-1), at the cost of one evaluation. The first step from the noise is
a plain DDIM step. The partner of a state is its neighbour: x_1 of an image x_0, x_(n-1) of a latent x_n. For an image
of the user's, x_1 comes from one step of DDIM inversion (as in the authors' codes), from where on all is exact again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from probediff.ddim import State
from probediff.inversion.problem import Walk

Gamma = Callable[[Sequence[float], int], float]


@torch.no_grad()
def sample_from_noise(walk: Walk, gamma: Gamma, x_T: Tensor) -> State:
    """Images from noise: n evaluations."""
    top = walk.problem.num_steps
    eps = walk.eps(x_T, walk.timesteps[top - 1])
    x, x_0 = walk.moved(x_T, eps, top, top - 1)
    walk.report(walk.timesteps[top - 1], walk.levels[top - 1], x, x_0)
    return _sampled(walk, gamma, x_T, x)


@torch.no_grad()
def sample_from_pair(walk: Walk, gamma: Gamma, state: State) -> State:
    """Images from an inverted state: n - 1 evaluations, or n from a latent without its partner."""
    if state.partner is None:
        return sample_from_noise(walk, gamma, state.x)
    return _sampled(walk, gamma, state.x, state.partner)


def _sampled(walk: Walk, gamma: Gamma, before: Tensor, x: Tensor) -> State:
    for level in range(walk.problem.num_steps - 1, 0, -1):
        eps = walk.eps(x, walk.timesteps[level - 1])
        down, x_0 = walk.moved(x, eps, level, level - 1)
        up, _ = walk.moved(x, eps, level, level + 1)
        before, x = x, down + gamma(walk.levels, level) * (before - up)
        walk.report(walk.timesteps[level - 1], walk.levels[level - 1], x, x_0)
    return State(x, partner=before)


@torch.no_grad()
def invert_pair(walk: Walk, gamma: Gamma, state: State) -> State:
    """The noise, and its neighbour, that the scheme made ``state`` from: n - 1 evaluations, n for a bare image."""
    before, x = state.x, state.partner
    if x is None:
        eps = walk.eps(before, walk.timesteps[0])
        x, x_0 = walk.moved(before, eps, 0, 1)
        walk.report(walk.timesteps[0], walk.levels[1], x, x_0)
    for level in range(1, walk.problem.num_steps):
        eps = walk.eps(x, walk.timesteps[level - 1])
        down, x_0 = walk.moved(x, eps, level, level - 1)
        up, _ = walk.moved(x, eps, level, level + 1)
        before, x = x, up + (before - down) / gamma(walk.levels, level)
        walk.report(walk.timesteps[level - 1], walk.levels[level + 1], x, x_0)
    return State(x, partner=before)
