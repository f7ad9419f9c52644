"""The pass that all probes share: fixed noise -> samples -> latents, once per checkpoint, sharded over processes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from probediff.ddim import DDIMStep, ddim_invert, ddim_sample
from probediff.noise import seeded_noise
from probediff.schedule import Convention, NoiseSchedule

Advance = Callable[[str, int, int], None]


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

    def check(self, schedule: NoiseSchedule) -> None:
        """Raise ValueError for settings that a pass over a model with ``schedule`` could not run with."""
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"probing.settings.{name} must be at least 1, got {getattr(self, name)}")
        if self.noise_seed < 0:
            raise ValueError(f"probing.settings.noise_seed must be at least 0, got {self.noise_seed}")
        schedule.ddim_timesteps(self.num_steps, self.convention)


@dataclass(frozen=True)
class ProbePass:
    """What one pass made; tensors are (N, C, H, W) float32 on the CPU, row i belongs to noise i.

    Attributes:
        step: optimiser steps that the model has seen.
        settings: how it was made.
        noise: the fixed Gaussian noise x_T.
        x_0: samples.
        latent: DDIM inversions of the samples; None when no probe needs them.
    """

    step: int
    settings: PassSettings
    noise: Tensor
    x_0: Tensor
    latent: Tensor | None


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


def run_pass(
    eps_model: nn.Module,
    schedule: NoiseSchedule,
    settings: PassSettings,
    image_shape: tuple[int, int, int],
    step: int,
    invert: bool = True,
    advance: Advance | None = None,
) -> ProbePass:
    """Generate from the fixed noise and, with ``invert``, invert the samples.

    With an initialised process group each process works on its share of the indices and all get the whole; every
    process must call this. ``advance(part, done, total)`` reports progress in network evaluations of this process.
    """
    weight = next(chain(eps_model.parameters(), eps_model.buffers()))
    device, dtype = weight.device, weight.dtype
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if grouped else (0, 1)
    mine = torch.arange(settings.num_samples).tensor_split(world_size)[rank]
    batches = mine.split(settings.batch_size) if len(mine) else ()

    def batched(part: str, make: Callable[[Tensor, Callable[[DDIMStep], None]], Tensor]) -> Tensor:
        total = math.ceil(len(mine) / settings.batch_size) * settings.num_steps
        done = 0

        def on_step(_: DDIMStep) -> None:
            nonlocal done
            done += 1
            if advance is not None:
                advance(part, done, total)

        made = [make(indices, on_step).float().cpu() for indices in batches]
        local = torch.cat(made) if made else torch.empty(0, *image_shape)
        return _gathered(local, settings.num_samples, world_size, device) if world_size > 1 else local

    def sample(indices: Tensor, on_step: Callable[[DDIMStep], None]) -> Tensor:
        x_T = seeded_noise(settings.noise_seed, indices, image_shape).to(device, dtype)
        return ddim_sample(eps_model, schedule, x_T, settings.num_steps, settings.convention, settings.clip, on_step)

    x_0 = batched("sampling", sample)

    def inverted(indices: Tensor, on_step: Callable[[DDIMStep], None]) -> Tensor:
        images = x_0[indices].to(device, dtype)
        clip = settings.clip_inversion
        return ddim_invert(eps_model, schedule, images, settings.num_steps, settings.convention, clip, on_step)

    latent = batched("inverting", inverted) if invert else None
    noise = seeded_noise(settings.noise_seed, range(settings.num_samples), image_shape)
    return ProbePass(step, settings, noise, x_0, latent)


def _gathered(local: Tensor, num_rows: int, world_size: int, device: torch.device) -> Tensor:
    """Rows of all processes in order; shards may differ by one row, so they travel padded."""
    padded = torch.zeros(math.ceil(num_rows / world_size), *local.shape[1:], device=device)
    padded[: len(local)] = local.to(device)
    shards = [torch.empty_like(padded) for _ in range(world_size)]
    torch.distributed.all_gather(shards, padded)
    sizes = [len(part) for part in torch.arange(num_rows).tensor_split(world_size)]
    return torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)]).cpu()
