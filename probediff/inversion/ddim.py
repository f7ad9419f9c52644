"""DDIM inversion (Song et al. 2020, eq. 13; P1 eq. 3 and 4), in the problem's convention: one evaluation a step."""

from __future__ import annotations

import torch
from torch import Tensor

from probediff.ddim import OnStep, ddim_invert, ddim_sample, ddim_step
from probediff.inversion.problem import Problem, State, Walk
from probediff.inversion.settings import InversionSettings


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images by ``ddim_sample``."""
    steps, convention = problem.num_steps, problem.convention
    return State(ddim_sample(problem.network, problem.schedule, x_T, steps, convention, problem.clip, on_step))


def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """Latents by ``ddim_invert``."""
    steps, convention, clip = problem.num_steps, problem.convention, problem.clip_inversion
    return State(ddim_invert(problem.network, problem.schedule, state.x, steps, convention, clip, on_step))


def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
    """Images by ``ddim_sample`` from ``state.x`` alone."""
    return sample(problem, settings, state.x)


@torch.no_grad()
def invert_from(walk: Walk, x: Tensor, first_leg: int) -> Tensor:
    """The legs of DDIM inversion from number ``first_leg`` on, for a state ``x`` at that leg's noise level."""
    problem = walk.problem
    for leg in problem.inversion_legs()[first_leg:]:
        eps = walk.eps(x, leg.timestep)
        clip, rederive = problem.clip_inversion, problem.rederives_eps
        x, x_0 = ddim_step(x, eps, leg.alpha_bar_from, leg.alpha_bar_to, clip, rederive)
        walk.report(leg.timestep, leg.alpha_bar_to, x, x_0)
    return x
