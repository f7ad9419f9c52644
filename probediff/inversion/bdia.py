"""BDIA-DDIM (Zhang et al. 2023, arXiv 2307.10829): bi-directional integration approximation, exactly invertible.

z_(i-1) = z_(i+1) - (1 - gamma) (z_(i+1) - z_i) - gamma Delta(t_i -> t_(i+1)) + Delta(t_i -> t_(i-1)), both Delta being
DDIM updates from z_i. The authors advise gamma = 1 for about 100 steps and 0.5 for few; inversion divides by gamma in
each step, rounding errors included, so that 0.5 is of use for few steps only.
"""

from __future__ import annotations

from torch import Tensor

from probediff.ddim import OnStep, State
from probediff.inversion.problem import Problem, Walk
from probediff.inversion.settings import InversionSettings
from probediff.inversion.two_step import Gamma, invert_pair, sample_from_noise, sample_from_pair


def _gamma(settings: InversionSettings) -> Gamma:
    return lambda levels, level: settings.bdia_gamma


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images from noise, with x_1 as the partner."""
    return sample_from_noise(Walk(problem, on_step), _gamma(settings), x_T)


def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
    """Images from an inverted state."""
    return sample_from_pair(Walk(problem, None), _gamma(settings), state)


def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """The noise, and its neighbour, that ``sample`` made ``state`` from."""
    return invert_pair(Walk(problem, on_step), _gamma(settings), state)
