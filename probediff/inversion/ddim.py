"""DDIM inversion (Song et al. 2020, eq. 13; *There and Back Again*, eq. 3 and 4), in the problem's convention."""

from torch import Tensor

from probediff.ddim import OnStep, State, walk
from probediff.inversion.problem import Problem
from probediff.inversion.settings import InversionSettings


def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """Latents by ``ddim_invert``: one evaluation a step."""
    return invert_from(problem, state.x, 0, on_step)


def invert_from(problem: Problem, x: Tensor, first_leg: int, on_step: OnStep | None) -> State:
    """The legs of DDIM inversion from number ``first_leg`` on, for a state ``x`` at that leg's noise level."""
    path = problem.path
    legs = path.inversion_legs()[first_leg:]
    return walk(problem.predict, legs, problem.clip_inversion, path.rederives_eps, x, on_step)
