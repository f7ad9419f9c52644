"""What is inverted: the model, its sampler's ladder of noise levels, and the states that methods hand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from probediff.ddim import DDIMStep, EpsModel, OnStep, ddim_step
from probediff.schedule import Convention, NoiseSchedule


class Leg(NamedTuple):
    """One step of DDIM inversion: the timestep asked, and the noise levels before and after."""

    timestep: int
    alpha_bar_from: float
    alpha_bar_to: float


@dataclass(frozen=True)
class Problem:
    """A model and how it is sampled.

    Args:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``, in eval mode.
        schedule: the schedule that the model was trained with.
        num_steps: DDIM steps.
        convention: ``"openai"`` or ``"diffusers"``, see ``probediff.ddim``.
        clip: clip predicted images to [-1, 1] while sampling.
        clip_inversion: clip them while inverting. ``ddim``, ``forward`` and ``swap`` clip the image predicted in each
            inversion step. ``fixed_point``, ``renoise`` and ``newton`` then look for a preimage under the clipped
            sampling step; it is not unique, and they find the one they come to first. ``edict``, ``bdia`` and ``belm``
            refuse either kind of clipping.
        network_dtype: dtype in which the network is asked, by default that of the state. With states in float64 and a
            network in float32 the exact methods do not suffer from rounding.
    """

    eps_model: EpsModel
    schedule: NoiseSchedule
    num_steps: int = 100
    convention: Convention = "openai"
    clip: bool = True
    clip_inversion: bool = True
    network_dtype: torch.dtype | None = None

    @property
    def rederives_eps(self) -> bool:
        """Whether clipping an image changes the noise that goes with it."""
        return self.convention == "openai"

    def network(self, x: Tensor, timestep: Tensor) -> Tensor:
        """``eps_model`` asked in ``network_dtype``; what ``ddim_sample`` and ``ddim_invert`` get."""
        return self.eps_model(x if self.network_dtype is None else x.to(self.network_dtype), timestep)

    def timesteps(self) -> list[int]:
        """The sampler's timesteps t_1..t_n, ascending."""
        return self.schedule.ddim_timesteps(self.num_steps, self.convention)

    def levels(self) -> list[float]:
        """alpha_bar of the sampler's states x_0..x_n: 1, then one level a timestep.

        The top level is not 0: the sampler takes x_T as its state at the top timestep, and so a method that inverts
        the sampler's own steps ends there, on an estimate of x_T.
        """
        return [1.0, *(float(self.schedule.alpha_bar[t]) for t in self.timesteps())]

    def inversion_legs(self) -> list[Leg]:
        """The steps of ``ddim_invert``; under ``openai`` each is asked one level lower than in ``diffusers``."""
        levels, timesteps = self.levels(), self.timesteps()
        ends = [*levels[1:], 0.0] if self.convention == "openai" else levels
        return [Leg(*leg) for leg in zip(timesteps, ends[:-1], ends[1:], strict=True)]


@dataclass(frozen=True)
class State:
    """Where a walk is, at the image's or at the noise's end. A user's image is ``State(x_0)``.

    Attributes:
        x: (B, C, H, W) image or latent.
        partner: (B, C, H, W) what an exact scheme needs beside x: EDICT's second sequence, or the neighbouring state
            of BDIA and BELM. None for other methods and for a user's image.
        predictions: the noises predicted in the sampler's last steps, nearest to the image first; ``swap`` only.
    """

    x: Tensor
    partner: Tensor | None = None
    predictions: tuple[Tensor, ...] = ()


class Walk:
    """Asks the network at the sampler's levels, and reports once per question."""

    def __init__(self, problem: Problem, on_step: OnStep | None) -> None:
        self.problem = problem
        self.timesteps = problem.timesteps()
        self.levels = problem.levels()
        self._on_step = on_step
        self._asked = 0

    def eps(self, x: Tensor, timestep: int) -> Tensor:
        """The predicted noise, in the dtype of ``x``.

        Raises:
            ValueError: the input is not a float tensor, or the network returned another shape.
        """
        if not x.is_floating_point() or x.ndim < 2:
            raise ValueError(f"the input must be a float tensor (B, ...), got {x.dtype} of shape {tuple(x.shape)}")
        eps = self.problem.network(x, torch.full((len(x),), timestep, dtype=torch.int64, device=x.device))
        if eps.shape != x.shape:
            raise ValueError(f"eps_model must return the shape of its input, {tuple(x.shape)}, got {tuple(eps.shape)}")
        return eps.to(x.dtype)

    def report(self, timestep: int, alpha_bar: float, x: Tensor, x_0: Tensor) -> None:
        """Tell ``on_step`` of the question that led to ``x``."""
        if self._on_step is not None:
            self._on_step(DDIMStep(self._asked, timestep, alpha_bar, x.detach(), x_0.detach()))
        self._asked += 1

    def moved(self, x: Tensor, eps: Tensor, level: int, to_level: int) -> tuple[Tensor, Tensor]:
        """``x`` moved from one of the sampler's levels to another along ``eps``, without clipping; the image too."""
        return ddim_step(x, eps, self.levels[level], self.levels[to_level], False, False)

    def preimage_map(self, z: Tensor, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """One application of a map whose fixed points z at ``level`` are those that the sampler moves to ``x``.

        z + sqrt(a_i / a_(i-1)) (x - step(z)), with the sampler's step from level i to i - 1. Without clipping this is
        sqrt(a_i / a_(i-1)) x + (sqrt(1 - a_i) - sqrt(a_i (1 - a_(i-1)) / a_(i-1))) eps(z, t_i), the equation that
        AIDI, ReNoise and Newton-Raphson inversion solve. Also returns the image predicted at z.
        """
        high, low = self.levels[level], self.levels[level - 1]
        eps = self.eps(z, self.timesteps[level - 1])
        stepped, x_0 = ddim_step(z, eps, high, low, self.problem.clip_inversion, self.problem.rederives_eps)
        return z + (high / low) ** 0.5 * (x - stepped), x_0

    def report_preimage(self, level: int, z: Tensor, x_0: Tensor) -> None:
        """Report an estimate ``z`` of the state at ``level``."""
        self.report(self.timesteps[level - 1], self.levels[level], z, x_0)
