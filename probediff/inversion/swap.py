"""The first predictions of the inversion replaced by those of the sampling trajectory (P1's authors, ``luk-st/taba``).

An experiment rather than a method for users' images: it says how much of DDIM inversion's error arises in its first
``num_replaced`` steps. The swapped noise is the one the sampler moved along (under ``openai`` with clipping the
re-derived one), and swapped steps are never clipped, as in the authors' code. num_steps - num_replaced evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probediff.ddim import OnStep, ddim_sample, ddim_step
from probediff.inversion.ddim import invert_from
from probediff.inversion.problem import Problem, State, Walk
from probediff.inversion.settings import InversionSettings


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images by ``ddim_sample``, with the predictions of its last ``num_replaced`` steps."""
    kept: dict[int, Tensor] = {}
    alpha_bar = dict(zip(problem.timesteps(), problem.levels()[1:], strict=True))
    wanted = set(problem.timesteps()[: settings.num_replaced])

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        eps = problem.network(x, timestep)
        asked = int(timestep[0]) if len(timestep) else -1
        if asked in wanted:
            kept[asked] = _effective_eps(problem, x, eps.to(x.dtype), alpha_bar[asked])
        return eps

    steps, convention = problem.num_steps, problem.convention
    x_0 = ddim_sample(network, problem.schedule, x_T, steps, convention, problem.clip, on_step)
    return State(x_0, predictions=tuple(kept[t] for t in sorted(kept)))


def _effective_eps(problem: Problem, x: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    if not (problem.clip and problem.rederives_eps):
        return eps
    x_0 = ddim_step(x, eps, alpha_bar, alpha_bar, clip=True, rederive_eps=True)[1]
    return (x - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5


@torch.no_grad()
def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """Latents of a state that ``sample`` returned.

    Raises:
        ValueError: the state does not carry the sampler's predictions, as a user's image does not.
    """
    replaced = settings.num_replaced
    if len(state.predictions) != replaced and len(state.x):
        raise ValueError(
            f"state.predictions must hold the {replaced} predictions of the trajectory that made the image, got "
            f"{len(state.predictions)}: method 'swap' inverts what sample() returned under the same settings; "
            f"use 'forward' for an image without a trajectory"
        )
    x = state.x
    for leg, eps in zip(problem.inversion_legs(), state.predictions, strict=False):
        x, _ = ddim_step(x, eps.to(x), leg.alpha_bar_from, leg.alpha_bar_to, False, False)
    return State(invert_from(Walk(problem, on_step), x, replaced))
