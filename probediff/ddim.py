"""Deterministic DDIM sampling (noise -> image) and inversion (image -> latent), in two published conventions.

``openai`` (improved-diffusion; what P1 used): the network is asked at the current timestep, inversion ends at
``alpha_bar = 0``, so that the last step lands on the predicted noise itself, and the noise is re-derived from the
clipped image. ``diffusers`` (``DDIMScheduler``, ``DDIMInverseScheduler``): inversion starts from ``alpha_bar = 1``,
asks the network at the target timestep and ends at the alpha_bar of the top timestep; clipping changes the image but
not the noise. The two give different latents: record which with every number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.schedule import Convention, NoiseSchedule

EpsModel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DDIMStep:
    """One finished step, as passed to ``on_step``.

    Attributes:
        index: 0..num_steps-1, in the order of execution.
        timestep: the timestep at which the network was asked.
        alpha_bar: noise level after the step (1: clean image, 0: pure noise).
        x: (B, C, H, W) the state after the step.
        x_0: (B, C, H, W) the image predicted in this step, clipped if clipping is on.
    """

    index: int
    timestep: int
    alpha_bar: float
    x: Tensor
    x_0: Tensor


OnStep = Callable[[DDIMStep], None]


@dataclass(frozen=True)
class _Leg:
    timestep: int
    alpha_bar_from: float
    alpha_bar_to: float


def ddim_sample(
    eps_model: EpsModel,
    schedule: NoiseSchedule,
    x_T: Tensor,
    num_steps: int = 100,
    convention: Convention = "openai",
    clip: bool = True,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images from noise by the deterministic DDIM sampler (Song et al. 2020, eq. 12 with sigma = 0).

    Args:
        eps_model: ``(x (B,C,H,W), timestep (B,) int64) -> eps (B,C,H,W)``.
        schedule: the schedule that the model was trained with.
        x_T: (B, C, H, W) standard normal noise.
        num_steps: number of network evaluations, see ``NoiseSchedule.ddim_timesteps``.
        convention: ``"openai"`` or ``"diffusers"``.
        clip: clip each predicted image to [-1, 1].
        on_step: called with a ``DDIMStep`` after each step.

    Returns:
        x_0: (B, C, H, W), on the device and in the dtype of ``x_T``.

    Raises:
        ValueError: bad ``num_steps``, ``convention``, dtype, or an eps_model that changes the shape.
    """
    timesteps = schedule.ddim_timesteps(num_steps, convention)
    alpha_bar = [float(schedule.alpha_bar[t]) for t in timesteps]
    legs = [_Leg(*leg) for leg in zip(timesteps, alpha_bar, [1.0, *alpha_bar[:-1]], strict=True)]
    return _walk(eps_model, x_T, legs[::-1], clip, convention == "openai", on_step)


def ddim_invert(
    eps_model: EpsModel,
    schedule: NoiseSchedule,
    x_0: Tensor,
    num_steps: int = 100,
    convention: Convention = "openai",
    clip: bool = True,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents from images by DDIM inversion (P1 eq. 3 with the approximation of eq. 4).

    Arguments and errors as in ``ddim_sample``; ``clip`` clips the images predicted on the way, which changes every
    statistic of the latents.

    Returns:
        latent: (B, C, H, W).
    """
    timesteps = schedule.ddim_timesteps(num_steps, convention)
    alpha_bar = [float(schedule.alpha_bar[t]) for t in timesteps]
    if convention == "openai":
        legs = [_Leg(*leg) for leg in zip(timesteps, alpha_bar, [*alpha_bar[1:], 0.0], strict=True)]
    else:
        legs = [_Leg(*leg) for leg in zip(timesteps, [1.0, *alpha_bar[:-1]], alpha_bar, strict=True)]
    return _walk(eps_model, x_0, legs, clip, convention == "openai", on_step)


@torch.no_grad()
def _walk(
    eps_model: EpsModel, x: Tensor, legs: list[_Leg], clip: bool, rederive_eps: bool, on_step: OnStep | None
) -> Tensor:
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"the input must be a float tensor (B, ...), got {x.dtype} of shape {tuple(x.shape)}")
    for index, leg in enumerate(legs):
        timestep = torch.full((len(x),), leg.timestep, dtype=torch.int64, device=x.device)
        eps = eps_model(x, timestep)
        if eps.shape != x.shape:
            raise ValueError(f"eps_model must return the shape of its input, {tuple(x.shape)}, got {tuple(eps.shape)}")
        x, x_0 = ddim_step(x, eps.to(x.dtype), leg.alpha_bar_from, leg.alpha_bar_to, clip, rederive_eps)
        if on_step is not None:
            on_step(DDIMStep(index, leg.timestep, leg.alpha_bar_to, x, x_0))
    return x


def ddim_step(
    x: Tensor, eps: Tensor, alpha_bar_from: float, alpha_bar_to: float, clip: bool, rederive_eps: bool
) -> tuple[Tensor, Tensor]:
    """Move ``x`` from noise level ``alpha_bar_from`` to ``alpha_bar_to`` along ``eps``; also the predicted image.

    With ``clip`` and ``rederive_eps`` the direction is the one that the clipped image implies.
    """
    x_0 = (x - (1 - alpha_bar_from) ** 0.5 * eps) / alpha_bar_from**0.5
    if clip:
        x_0 = x_0.clamp(-1, 1)
        if rederive_eps:
            eps = (x - alpha_bar_from**0.5 * x_0) / (1 - alpha_bar_from) ** 0.5
    return alpha_bar_to**0.5 * x_0 + (1 - alpha_bar_to) ** 0.5 * eps, x_0


@dataclass(frozen=True)
class DDIMPath:
    """The steps of a sampler, in ascending order of noise.

    Attributes:
        timesteps: at which the network is asked, S of them.
        alpha_bar: of them, S.
        alpha_bar_below: where the sampling step from each of them ends, S.
        convention: ``openai`` inverts from the first level and asks at the level that a step leaves; ``diffusers``
            inverts from the clean image and asks at the level that it reaches.
        clip: clip predicted images to [-1, 1] while sampling.
    """

    timesteps: tuple[int, ...]
    alpha_bar: tuple[float, ...]
    alpha_bar_below: tuple[float, ...]
    convention: Convention
    clip: bool

    @classmethod
    def of(cls, schedule: NoiseSchedule, num_steps: int, convention: Convention, clip: bool) -> DDIMPath:
        """The path of ``probediff.ddim.ddim_sample``; raises ValueError as ``NoiseSchedule.ddim_timesteps``."""
        timesteps = schedule.ddim_timesteps(num_steps, convention)
        alpha_bar = tuple(float(schedule.alpha_bar[t]) for t in timesteps)
        return cls(tuple(timesteps), alpha_bar, (1.0, *alpha_bar[:-1]), convention, clip)

    def __len__(self) -> int:
        return len(self.timesteps)

    def steps_for(self, strength: float) -> int:
        """How many of the last sampling steps an edit of ``strength`` does, at least one.

        Raises:
            ValueError: strength outside (0, 1].
        """
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {strength}; 1 keeps next to nothing of the image")
        return max(1, round(strength * len(self)))

    def noised(self, x_0: Tensor, noise: Tensor, num_steps: int) -> Tensor:
        """sqrt(a) x_0 + sqrt(1 - a) noise at the level from which ``num_steps`` sampling steps are left (SDEdit)."""
        alpha_bar = self.alpha_bar[num_steps - 1]
        return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise

    @torch.no_grad()
    def sample(self, eps_model: EpsModel, x: Tensor, num_steps: int | None = None) -> Tensor:
        """Images (B, C, H, W) by the last ``num_steps`` sampling steps, by default all, from ``x`` (B, C, H, W)."""
        count = len(self) if num_steps is None else num_steps
        for k in reversed(range(count)):
            eps = self._asked(eps_model, x, self.timesteps[k])
            levels = self.alpha_bar[k], self.alpha_bar_below[k]
            x, _ = ddim_step(x, eps, *levels, self.clip, self.convention == "openai")
        return x

    @torch.no_grad()
    def invert(self, eps_model: EpsModel, x_0: Tensor, num_steps: int | None = None) -> Tensor:
        """The state (B, C, H, W) from which ``num_steps`` sampling steps, by default all, lead to about ``x_0``.

        Predicted images are not clipped, because a clipped step has no inverse.
        """
        count = len(self) if num_steps is None else num_steps
        x = x_0
        if self.convention == "openai":
            legs = zip(self.timesteps[: count - 1], self.alpha_bar, self.alpha_bar[1:], strict=False)
        else:
            legs = zip(self.timesteps[:count], self.alpha_bar_below, self.alpha_bar, strict=False)
        for timestep, start, end in legs:
            x, _ = ddim_step(x, self._asked(eps_model, x, timestep), start, end, False, False)
        return x

    def _asked(self, eps_model: EpsModel, x: Tensor, timestep: int) -> Tensor:
        return eps_model(x, torch.full((len(x),), timestep, dtype=torch.int64, device=x.device)).to(x.dtype)
