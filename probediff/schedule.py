"""The noise schedule: how much of the image is left at each timestep.

Index 0 is the least noisy timestep, index T-1 the most noisy one. There is no entry for the clean image; the samplers
use ``alpha_bar = 1`` for it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Convention = Literal["openai", "diffusers"]
ScheduleName = Literal["cosine", "linear", "scaled_linear"]
#: Whole numbers up to here are float32 numbers, which is what networks are shown.
MAX_TIMESTEPS = 1 << 24


def _checked_length(num_train_timesteps: int) -> int:
    is_integer = isinstance(num_train_timesteps, int) and not isinstance(num_train_timesteps, bool)
    if not is_integer or num_train_timesteps < 2:
        raise ValueError(
            f"num_train_timesteps must be an integer of at least 2, got {num_train_timesteps!r}; 1000 and 4000 are "
            f"usual"
        )
    if num_train_timesteps > MAX_TIMESTEPS:
        raise ValueError(
            f"num_train_timesteps must be at most {MAX_TIMESTEPS:,}, above which float32 does not tell timesteps "
            f"apart, got {num_train_timesteps}; 1000 and 4000 are usual"
        )
    return num_train_timesteps


class NoiseSchedule:
    """A forward diffusion process q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I).

    Args:
        betas: (T,) variances of the single steps, each in (0, 1), such as ``betas`` of a scheduler of diffusers.
        name: what records call it; the ends of the betas by default.

    Attributes:
        name: as given.
        alpha_bar: (T,) float64, cumulative product of ``1 - betas``; falls from nearly 1 to nearly 0.
        betas: (T,) float64.

    Raises:
        ValueError: when ``betas`` is not a vector of at least two values in (0, 1).
    """

    def __init__(self, betas: Tensor, name: str | None = None) -> None:
        self.betas = torch.as_tensor(betas, dtype=torch.float64).detach().cpu()
        if self.betas.ndim != 1 or len(self.betas) < 2 or not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError(
                f"betas must be a vector of at least two values strictly between 0 and 1, got shape "
                f"{tuple(self.betas.shape)} with values from {self.betas.min():g} to {self.betas.max():g}"
                if self.betas.numel()
                else "betas must be a vector of at least two values strictly between 0 and 1, got an empty one"
            )
        self.name = name or f"betas {self.betas[0]:g}..{self.betas[-1]:g}"
        self.alpha_bar = torch.cumprod(1 - self.betas, dim=0)
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self.betas)

    @classmethod
    def cosine(cls, num_train_timesteps: int) -> NoiseSchedule:
        """Cosine schedule (Nichol & Dhariwal 2021, eq. 17), each beta capped at 0.999."""
        edges = torch.arange(_checked_length(num_train_timesteps) + 1, dtype=torch.float64) / num_train_timesteps
        alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999), "cosine")

    @classmethod
    def linear(cls, num_train_timesteps: int) -> NoiseSchedule:
        """Linear schedule (Ho et al. 2020: 1e-4 to 0.02 for 1000 timesteps), scaled by 1000/T for other lengths."""
        scale = 1000 / _checked_length(num_train_timesteps)
        if scale * 0.02 >= 1:
            raise ValueError(
                f"num_train_timesteps must exceed 20 for the linear schedule (beta would reach 1), "
                f"got {num_train_timesteps}; use the cosine schedule for so few"
            )
        betas = torch.linspace(scale * 1e-4, scale * 0.02, num_train_timesteps, dtype=torch.float64)
        return cls(betas, "linear")

    @classmethod
    def scaled_linear(cls, num_train_timesteps: int) -> NoiseSchedule:
        """Stable Diffusion's: betas of 0.00085 to 0.012 for 1000 timesteps, whose roots are evenly spaced.

        For other lengths they are scaled by 1000/T.
        """
        scale = 1000 / _checked_length(num_train_timesteps)
        first, last = ((scale * beta) ** 0.5 for beta in (0.00085, 0.012))
        if last >= 1:
            raise ValueError(
                f"num_train_timesteps must exceed 12 for the scaled linear schedule (beta would reach 1), "
                f"got {num_train_timesteps}; use the cosine schedule for so few"
            )
        return cls(torch.linspace(first, last, num_train_timesteps, dtype=torch.float64) ** 2, "scaled_linear")

    @classmethod
    def from_name(cls, name: ScheduleName, num_train_timesteps: int) -> NoiseSchedule:
        """``"cosine"``, ``"linear"`` or ``"scaled_linear"`` with ``num_train_timesteps`` timesteps."""
        constructors = {"cosine": cls.cosine, "linear": cls.linear, "scaled_linear": cls.scaled_linear}
        if name not in constructors:
            raise ValueError(f"schedule must be one of {sorted(constructors)}, got {name!r}")
        return constructors[name](num_train_timesteps)

    def at(self, name: Literal["alpha_bar", "betas"], timestep: Tensor, ndim: int) -> Tensor:
        """Values at ``timestep`` (B,) as float64 (B, 1, ..., 1) with ``ndim`` dimensions, on the device of it.

        The table is kept on the device, so a training step copies nothing.
        """
        key = (name, timestep.device)
        if key not in self._tables:
            self._tables[key] = getattr(self, name).to(timestep.device)
        return self._tables[key][timestep].reshape(-1, *[1] * (ndim - 1))

    def ddim_timesteps(self, num_steps: int, convention: Convention = "openai") -> list[int]:
        """The ``num_steps`` timesteps, ascending, that a DDIM pass visits.

        ``openai``: ``0, s, 2s, ...`` with the smallest stride s that gives exactly ``num_steps`` of them
        (improved-diffusion's "ddimN" respacing). ``diffusers``: stride ``T // num_steps`` ("leading" spacing).

        Raises:
            ValueError: unknown convention, ``num_steps`` outside 1..T, or (openai) no stride gives that many steps.
        """
        length = len(self)
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= length:
            raise ValueError(f"num_steps must divide into 1..{length}, got {num_steps!r}")
        if convention == "diffusers":
            return [k * (length // num_steps) for k in range(num_steps)]
        if convention != "openai":
            raise ValueError(f"convention must be 'openai' or 'diffusers', got {convention!r}")
        stride = math.ceil(length / num_steps)
        if len(range(0, length, stride)) != num_steps:
            fewer = len(range(0, length, stride))
            more = len(range(0, length, stride - 1))
            raise ValueError(
                f"num_steps={num_steps} does not divide {length} timesteps: no integer stride gives exactly that many; "
                f"use {fewer} or {more}, or convention='diffusers'"
            )
        return list(range(0, length, stride))
