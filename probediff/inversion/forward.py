"""Forward diffusion in place of the first inversion steps (the later method of P1's authors, ``luk-st/taba``).

The image is noised to the level that ``num_replaced`` inversion steps would reach, with seeded noise of its own, and
inverted by DDIM from there: num_steps - num_replaced evaluations. Row i depends on the seed and on index i only (the
authors draw from one generator a process).
"""

import torch
from torch import Tensor

from probediff.ddim import OnStep, State
from probediff.inversion.ddim import invert_from
from probediff.inversion.problem import Problem
from probediff.inversion.settings import InversionSettings
from probediff.noise import seeded_noise


def invert(
    problem: Problem, settings: InversionSettings, state: State, indices: Tensor, on_step: OnStep | None = None
) -> State:
    """Latents of ``state.x``, the samples ``indices`` (B,)."""
    x, replaced = state.x, settings.num_replaced
    if replaced > 0:
        alpha_bar = problem.path.inversion_legs()[replaced].alpha_bar_from
        # Drawn on the CPU: a GPU's noise would agree to rounding only.
        noise = seeded_noise(settings.noise_seed, torch.as_tensor(indices).cpu(), x.shape[1:]).to(x.device, x.dtype)
        x = alpha_bar**0.5 * x + (1 - alpha_bar) ** 0.5 * noise
    return invert_from(problem, x, replaced, on_step)
