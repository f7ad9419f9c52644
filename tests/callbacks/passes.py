"""Passes, contexts and models for the tests of single probes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from probediff.models.base import ProbeModel
from probediff.probing import ProbePass
from probediff.probing.probe import ProbeContext
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_settings

SHAPE = (1, 8, 8)


def draw(num: int, seed: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(seed))


def build_pass(
    num: int = 17, shape: tuple[int, int, int] = SHAPE, kind: type[ProbePass] = ProbePass, **options: Any
) -> ProbePass:
    """Noises, images that resemble them, latents between; the left half of each image is flat."""
    noise = draw(num, 0, shape)
    x_0 = (0.3 * noise + 0.2 * draw(num, 1, shape)).tanh()
    x_0[..., : shape[-1] // 2] = draw(num, 2, (shape[0], 1, 1)).clamp(-1, 1)
    latent = 0.8 * noise + 0.2 * x_0 + 0.1 * draw(num, 3, shape)
    return kind(0, tiny_settings(num_samples=num), noise, x_0, latent, **options)


class SamplingPass(ProbePass):
    """A pass whose model scales noises to images."""

    scale: ClassVar[float] = 1.0

    def sample(self, noise: Tensor) -> Tensor:
        return self.scale * noise


class FifthPass(SamplingPass):
    scale = 0.2


class TenthPass(SamplingPass):
    scale = 0.1


class BlackPass(SamplingPass):
    scale = 0.0


def latent_model() -> ProbeModel:
    """Codes that an autoencoder decodes to three channels of twice the size."""
    network, schedule = torch.nn.Linear(1, 1), NoiseSchedule.cosine(40)
    return ProbeModel(network, schedule, SHAPE, 0, {}, decode=lambda codes: codes.repeat(1, 3, 2, 2) / 4)


def context(folder: Path, shape: tuple[int, int, int] = SHAPE, **options: Any) -> ProbeContext:
    settings = tiny_settings(num_samples=options.pop("num_samples", 17))
    return ProbeContext(settings, shape, RunFolder(folder), **options)


def finite(values: dict[str, float]) -> bool:
    return all(isinstance(value, float) and math.isfinite(value) for value in values.values())
