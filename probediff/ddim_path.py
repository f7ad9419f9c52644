"""A DDIM walk between the clean image and any of its levels, over any timesteps: what editing needs beside `ddim`.

`probediff.ddim` walks from end to end in one of two conventions. Here a walk can stop half way, and its timesteps can
be those of a scheduler of diffusers that spaces them otherwise (`steps_offset`, "trailing").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.ddim import EpsModel, ddim_step
from probediff.schedule import Convention, NoiseSchedule


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
