"""O-BELM (Wang et al. 2024, arXiv 2410.07273): the two-step exact scheme of smallest local truncation error.

With alpha_i = sqrt(alpha_bar_i) and h_i the growth of sigma / alpha from level i - 1 to i,

    x_(i-1) = h_i² / h_(i+1)² alpha_(i-1) / alpha_(i+1) x_(i+1)
              + (h_(i+1)² - h_i²) / h_(i+1)² alpha_(i-1) / alpha_i x_i
              - h_i (h_i + h_(i+1)) / h_(i+1) alpha_(i-1) eps(x_i, t_i),

which is ``two_step`` with gamma_i = h_i² alpha_(i-1) / (h_(i+1)² alpha_(i+1)). One evaluation a step. Inversion
multiplies errors by (h_(i+1) / h_i)² a step where h grows, which it does by orders of magnitude in all: rounding
errors, see ``Problem.network_dtype``, and for a bare image what its first, plain DDIM step is wrong by, so that the
latent's error does not fall with num_steps (the reconstruction is exact all the same).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from probediff.ddim import OnStep, State
from probediff.inversion.problem import Problem, Walk
from probediff.inversion.settings import InversionSettings
from probediff.inversion.two_step import invert_pair, sample_from_noise, sample_from_pair


def _noise_to_signal(alpha_bar: float) -> float:
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def _gamma(levels: Sequence[float], level: int) -> float:
    below, here, above = (_noise_to_signal(a) for a in levels[level - 1 : level + 2])
    ratio = (here - below) / (above - here)
    return float(ratio**2 * (levels[level - 1] / levels[level + 1]) ** 0.5)


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images from noise, with x_1 as the partner."""
    return sample_from_noise(Walk(problem, on_step), _gamma, x_T)


def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
    """Images from an inverted state."""
    return sample_from_pair(Walk(problem, None), _gamma, state)


def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """The noise, and its neighbour, that ``sample`` made ``state`` from."""
    return invert_pair(Walk(problem, on_step), _gamma, state)
