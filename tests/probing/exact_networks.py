"""Networks that are exact for Gaussian images under a wiring of their own, whatever a model says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probediff.data import Digits
from probediff.data.patches import cut_patches
from probediff.denoisers import GaussianDenoiser
from probediff.models import ProbeModel, wrap_network
from probediff.probing.wiring import Wiring, check_wiring
from probediff.schedule import NoiseSchedule

NUM_TESTED = 32
LINEAR, COSINE = NoiseSchedule.linear(1000), NoiseSchedule.cosine(1000)
#: The wiring of improved-diffusion.
IMPROVED: dict[str, Any] = {"schedule": NoiseSchedule.cosine(4000), "scale": 0.25}


def check(model: ProbeModel, images: Tensor, count: int = 24) -> Wiring:
    """The wiring of a model on the first of some images."""
    return check_wiring(model, images[:count])


@cache
def digits() -> Tensor:
    """(1797, 1, 8, 8) in [-1, 1]."""
    return torch.tensor(Digits().load()).float() / 127.5 - 1


@cache
def patches() -> Tensor:
    """(800, 3, 8, 8) in [-1, 1], of two photographs."""
    from sklearn.datasets import load_sample_images

    cut = cut_patches(np.stack(load_sample_images().images), 8, 800, 0)
    return torch.tensor(cut).float() / 127.5 - 1


class ExactNetwork(nn.Module):
    """The optimal network for Gaussian images with the moments of some images.

    Args:
        images: (N, C, H, W) in [-1, 1]; the first 32 are for the check.
        schedule: that it was trained with.
        prediction: what it predicts.
        scale: its time is the timestep times that.
        sign: of its output.
        unit_range: trained on images in [0, 1].
    """

    def __init__(
        self,
        images: Tensor,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        scale: float = 1.0,
        sign: int = 1,
        unit_range: bool = False,
    ) -> None:
        super().__init__()
        trained_on = images[NUM_TESTED:]
        self.denoiser = GaussianDenoiser.fit((trained_on + 1) / 2 if unit_range else trained_on, schedule)
        self.schedule, self.prediction, self.scale, self.sign = schedule, prediction, scale, sign

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        timestep = (time / self.scale).round().long().clamp(0, len(self.schedule) - 1)
        eps = self.denoiser(x, timestep)
        alpha_bar = self.schedule.at("alpha_bar", timestep, x.ndim).float()
        image = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * image
        return self.sign * {"epsilon": eps, "sample": image, "v_prediction": v}[self.prediction]


def exact_model(images: Tensor, said: dict[str, Any], **true: Any) -> ProbeModel:
    """A model that says one thing of its network, for which something else is true; in the words of `ExactNetwork`."""
    network = ExactNetwork(images, **(said | true))
    prediction, scale = said.get("prediction", "epsilon"), said.get("scale", 1.0)
    return wrap_network(network, said["schedule"], tuple(images.shape[1:]), prediction, scale)


class TinyMLP(nn.Module):
    """A network of three layers for images of D values, which learns digits in seconds; its time is 0..1000."""

    def __init__(self, dimensions: int, width: int = 256) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.time, self.skip = nn.Linear(32, width), nn.Linear(32, 1)
            self.layers = nn.ModuleList([nn.Linear(dimensions, width), nn.Linear(width, width)])
            self.out = nn.Linear(width, dimensions)
        self.register_buffer("frequencies", 0.05 * 10 ** torch.linspace(-2.5, 0.5, 16))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time.float()[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], 1)
        shift, skip = self.time(waves), self.skip(waves)[:, :, None, None]
        hidden = nn.functional.silu(self.layers[0](x.flatten(1)) + shift)
        hidden = nn.functional.silu(self.layers[1](hidden) + shift)
        return self.out(hidden).reshape(x.shape) + skip * x


def train(
    network: nn.Module,
    images: Tensor,
    schedule: NoiseSchedule,
    prediction: str,
    scale: float,
    stages: Sequence[int],
    learning_rate: float = 2e-3,
) -> Iterator[int]:
    """Train on all but the first 32 images, and stop at the stages, the last of which ends it."""
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(stages[-1] + 1):
        if step in stages:
            yield step
        x_0 = images[torch.randint(NUM_TESTED, len(images), (128,), generator=generator)]
        timestep = torch.randint(len(schedule), (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        alpha_bar = schedule.at("alpha_bar", timestep, x_0.ndim).float()
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        target = {"epsilon": eps, "v_prediction": signal * eps - noise * x_0, "sample": x_0}[prediction]
        loss = (network(signal * x_0 + noise * eps, timestep * scale) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
