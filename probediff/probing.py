"""What a probe pass is told and what it gives, and how a model is looked at without leaving traces."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from probediff.inversion import InversionSettings
from probediff.measures import TrajectoryDistances
from probediff.schedule import Convention, NoiseSchedule


@dataclass(frozen=True)
class PassSettings:
    """What a probe pass generates and how; every field goes into every record.

    Args:
        num_samples: N, number of fixed noises.
        num_steps: DDIM steps of sampling and of inversion.
        convention: DDIM convention, ``openai`` (P1) or ``diffusers``.
        clip: clip predicted images to [-1, 1] while sampling.
        clip_inversion: clip predicted images to [-1, 1] while inverting; changes every statistic of the latents.
        noise_seed: seed of the fixed noises (P1: 420); noise i depends on this seed and i only.
        weights: probe the averaged (``ema``) or the ``raw`` weights.
        ema_rate: which average to probe; the first of ``model.ema_rates`` by default.
        batch_size: samples per network evaluation; does not change the numbers.
        inversion: which method inverts the samples, ``ddim`` by default (P1).
    """

    num_samples: int = 1000
    num_steps: int = 100
    convention: Convention = "openai"
    clip: bool = True
    clip_inversion: bool = True
    noise_seed: int = 420
    weights: Literal["ema", "raw"] = "ema"
    ema_rate: float | None = None
    batch_size: int = 128
    inversion: InversionSettings = InversionSettings()  # noqa: RUF009 (frozen)

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise ValueError for settings that a pass over a model with ``schedule`` could not run with."""
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"probing.settings.{name} must be at least 1, got {getattr(self, name)}")
        if self.noise_seed < 0:
            raise ValueError(f"probing.settings.noise_seed must be at least 0, got {self.noise_seed}")
        schedule.ddim_timesteps(self.num_steps, self.convention)
        self.inversion.check(self.num_steps, self.clip, self.clip_inversion)


@dataclass(frozen=True)
class ProbePass:
    """What one pass made; tensors are (N, C, H, W) float32 on the CPU, row i belongs to noise i.

    Attributes:
        step: optimiser steps that the model has seen.
        settings: how it was made.
        noise: the fixed Gaussian noise x_T.
        x_0: samples, or the images that were handed in.
        latent: inversions of x_0; None when no probe needs them.
        evaluations: network evaluations per image.
        paired: whether x_0 was made from the noise (False for a user's images).
        trajectory: how the samplers' ways lie between noise and latent; None when no probe needs it.
        sample: (M, C, H, W) noises or latents -> samples of the same model with the same settings.
        decode: (M, C, H, W) codes -> pixels, for a latent diffusion model.
        eps: the model: (M, C, H, W) inputs and (M,) timesteps -> predicted noise, on the device of the inputs.
        schedule: the model's schedule.
    """

    step: int
    settings: PassSettings
    noise: Tensor
    x_0: Tensor
    latent: Tensor | None
    evaluations: int = 0
    paired: bool = True
    trajectory: TrajectoryDistances | None = None
    sample: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    eps: Callable[[Tensor, Tensor], Tensor] | None = None
    schedule: NoiseSchedule | None = None

    def pixels(self, x_0: Tensor | None = None) -> Tensor:
        """``x_0`` (the pass's own by default) as images for eyes and feature networks."""
        x_0 = self.x_0 if x_0 is None else x_0
        return x_0 if self.decode is None else self.decode(x_0)


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found at one step.

    Attributes:
        values: numbers for the record and the dashboards, keys ``<quantity>[_<unit>]``.
        arrays: per-sample tensors, kept beside the samples.
        pictures: (3, H, W) uint8 pictures by name.
        histograms: names of ``arrays`` that dashboards show as histograms.
    """

    values: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    histograms: tuple[str, ...] = ()


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation without traces: eval mode, no gradients; every flag and random state is put back on exit."""
    training = [(part, part.training) for part in module.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), torch.no_grad():
        try:
            module.eval()
            yield
        finally:
            for part, mode in training:
                part.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)
