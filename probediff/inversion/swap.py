"""The first predictions of the inversion replaced by those of the sampling trajectory (P1's authors, ``luk-st/taba``).

An experiment rather than a method for users' images: it says how much of DDIM inversion's error arises in its first
``num_replaced`` steps. The swapped noise is the one the sampler moved along (under ``openai`` with clipping the
re-derived one), and swapped steps are never clipped, as in the authors' code. num_steps - num_replaced evaluations.
"""

import torch
from torch import Tensor

from probediff.ddim import OnStep, State, ddim_step, implied_image, walk
from probediff.inversion.ddim import invert_from
from probediff.inversion.problem import Problem
from probediff.inversion.settings import InversionSettings


def sample(problem: Problem, settings: InversionSettings, x_T: Tensor, on_step: OnStep | None = None) -> State:
    """Images by ``ddim_sample``, with the predictions of its last ``num_replaced`` steps."""
    path, predictions = problem.path, dict[int, Tensor]()

    def predict(x: Tensor, timestep: int | Tensor) -> tuple[Tensor, Tensor]:
        x_0, eps = problem.predict(x, timestep)
        if timestep in path.timesteps[: settings.num_replaced]:
            level = path.timesteps.index(timestep)
            predictions[level] = _effective_eps(problem, x, x_0, eps, path.alpha_bar[level])
        return x_0, eps

    x_0 = walk(predict, path.sampling_legs(), problem.clip, path.rederives_eps, x_T, on_step).x
    return State(x_0, predictions=tuple(predictions[level] for level in sorted(predictions)))


def _effective_eps(problem: Problem, x: Tensor, x_0: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """The noise that the sampler moves along."""
    if not (problem.clip and problem.path.rederives_eps):
        return eps
    return (x - alpha_bar**0.5 * x_0.clamp(-1, 1)) / (1 - alpha_bar) ** 0.5


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
    for leg, eps in zip(problem.path.inversion_legs(), state.predictions, strict=False):
        x_0 = implied_image(x, eps.to(x), leg.alpha_bar_from)
        x, _ = ddim_step(x, x_0, eps.to(x), leg.alpha_bar_from, leg.alpha_bar_to, False, False)
    return invert_from(problem, x, replaced, on_step)
