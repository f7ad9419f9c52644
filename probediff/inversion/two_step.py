"""Exact inversion by explicit two-step schemes, the form that BDIA and O-BELM share.

With D_ij the DDIM move of x_i from level i to j along eps(x_i, t_i), the sampler takes

    x_(i-1) = D_(i,i-1) + gamma_i (x_(i+1) - D_(i,i+1)),

which can be solved for x_(i+1) as well as for x_(i-1), at the cost of one evaluation. The first step from the noise is
a plain DDIM step. The partner of a state is its neighbour: x_1 of an image x_0, x_(n-1) of a latent x_n. For an image
of the user's, x_1 comes from one step of DDIM inversion (as in the authors' codes), from where on all is exact again.
Sampling takes n evaluations, n - 1 from a pair; inversion n - 1, and n for a bare image.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from probediff.ddim import OnStep, State
from probediff.inversion.problem import MethodSteps, Problem, Walk
from probediff.inversion.settings import InversionSettings

#: ``(levels, level) -> gamma``
Gamma = Callable[[Sequence[float], int], float]


def two_step_method(choose_gamma: Callable[[InversionSettings], Gamma]) -> MethodSteps:
    """The method with the weights gamma that the settings choose."""

    @torch.no_grad()
    def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None) -> State:
        walk, top = Walk(problem, on_step), problem.num_steps
        x, x_0 = walk.moved(x_T, walk.eps(x_T, walk.timesteps[top - 1]), top, top - 1)
        walk.report(walk.timesteps[top - 1], walk.levels[top - 1], x, x_0)
        return _go_down(walk, choose_gamma(settings), x_T, x)

    @torch.no_grad()
    def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
        if state.partner is None:
            return sample(problem, settings, state.x, None)
        return _go_down(Walk(problem, None), choose_gamma(settings), state.x, state.partner)

    @torch.no_grad()
    def invert(
        problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None
    ) -> State:
        walk, gamma = Walk(problem, on_step), choose_gamma(settings)
        before, x = state.x, state.partner
        if x is None:
            x, x_0 = walk.moved(before, walk.eps(before, walk.timesteps[0]), 0, 1)
            walk.report(walk.timesteps[0], walk.levels[1], x, x_0)
        for level in range(1, problem.num_steps):
            eps = walk.eps(x, walk.timesteps[level - 1])
            down, x_0 = walk.moved(x, eps, level, level - 1)
            up, _ = walk.moved(x, eps, level, level + 1)
            before, x = x, up + (before - down) / gamma(walk.levels, level)
            walk.report(walk.timesteps[level - 1], walk.levels[level + 1], x, x_0)
        return State(x, partner=before)

    return MethodSteps(invert, sample, resample)


def _go_down(walk: Walk, gamma: Gamma, before: Tensor, x: Tensor) -> State:
    """The sampler's steps from the neighbouring states ``before`` (at the top) and ``x``."""
    for level in range(walk.problem.num_steps - 1, 0, -1):
        eps = walk.eps(x, walk.timesteps[level - 1])
        down, x_0 = walk.moved(x, eps, level, level - 1)
        up, _ = walk.moved(x, eps, level, level + 1)
        before, x = x, down + gamma(walk.levels, level) * (before - up)
        walk.report(walk.timesteps[level - 1], walk.levels[level - 1], x, x_0)
    return State(x, partner=before)
