"""EDICT (Wallace et al. 2022, arXiv 2211.12446, eq. 12 to 14): two coupled sequences that invert each other exactly.

In each step one sequence moves along the noise predicted at the other, then the other along the noise at the first,
then the two are mixed with weight p, which keeps them together; the order of the two alternates from step to step, as
in the authors' code. An image of the user's is its own partner. Two evaluations a step, both ways. The inverse of the
mixing multiplies the difference of the two by 1/p² a step, rounding errors included (2e6 in 100 steps at p = 0.93):
the authors compute in float64, and so should you, see ``Problem.network_dtype``. It does the same to whatever a bare
image's partner is wrong by: with p = 0.93 latents of bare images are useless beyond about 100 steps, even in float64.
"""

import torch
from torch import Tensor

from probediff.ddim import OnStep, State
from probediff.inversion.problem import Problem, Walk
from probediff.inversion.settings import InversionSettings


@torch.no_grad()
def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images from noise, both sequences starting from ``x_T``."""
    return _sampled(Walk(problem, on_step), settings.edict_mixing, x_T, x_T)


@torch.no_grad()
def resample(problem: Problem, settings: InversionSettings, state: State) -> State:
    """Images from an inverted pair."""
    return _sampled(Walk(problem, None), settings.edict_mixing, *_pair(state))


@torch.no_grad()
def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """The noise, and its partner, that ``sample`` made ``state`` from."""
    walk, p = Walk(problem, on_step), settings.edict_mixing
    x, y = _pair(state)
    for level in range(1, problem.num_steps + 1):
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        if _x_moves_first(problem, level):
            y = _moved(walk, y, x, level - 1, level)
            x = _moved(walk, x, y, level - 1, level)
        else:
            x = _moved(walk, x, y, level - 1, level)
            y = _moved(walk, y, x, level - 1, level)
    return State(x, partner=y)


def _sampled(walk: Walk, p: float, x: Tensor, y: Tensor) -> State:
    for level in range(walk.problem.num_steps, 0, -1):
        if _x_moves_first(walk.problem, level):
            x = _moved(walk, x, y, level, level - 1)
            y = _moved(walk, y, x, level, level - 1)
        else:
            y = _moved(walk, y, x, level, level - 1)
            x = _moved(walk, x, y, level, level - 1)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    return State(x, partner=y)


def _moved(walk: Walk, base: Tensor, other: Tensor, level_from: int, level_to: int) -> Tensor:
    """``base`` moved between neighbouring levels along the noise predicted at ``other`` for the upper of the two."""
    upper = max(level_from, level_to)
    eps = walk.eps(other, walk.timesteps[upper - 1])
    moved, x_0 = walk.moved(base, eps, level_from, level_to)
    walk.report(walk.timesteps[upper - 1], walk.levels[level_to], moved, x_0)
    return moved


def _pair(state: State) -> tuple[Tensor, Tensor]:
    return state.x, state.x if state.partner is None else state.partner


def _x_moves_first(problem: Problem, level: int) -> bool:
    return (problem.num_steps - level) % 2 == 0
