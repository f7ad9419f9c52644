"""Fresh sets of noises, and what some fixed maps make of them: how far numbers are off with other noises can be seen.

The maps stand for a trained network: an image is a smooth nonlinear function of its noise, of strongly correlated
pixels, and the fewer contrasts an image has, the more noises it captures; a latent is the noise and a smooth error,
larger where the image is flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

from probediff.measures import TrajectoryDistances, TrajectoryRecorder

SHAPE = (3, 8, 8)
_STEPS = 50
_DRAWS = 10


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(x: Tensor, width: float) -> Tensor:
    """(N, C, H, H) blurred, so that the variance of white noise stays 1."""
    place = torch.arange(x.shape[-1], dtype=torch.float64)
    kernel = (-(place[:, None] - place).square() / (2 * width**2)).exp()
    kernel /= kernel.norm(dim=1, keepdim=True)
    return kernel @ x @ kernel.T


def _mix(x: Tensor) -> Tensor:
    """Neighbouring channels resemble each other."""
    channels = torch.tensor([[1.0, 0.6, 0.5], [0.6, 1.0, 0.6], [0.5, 0.6, 1.0]], dtype=torch.float64)
    return torch.einsum("cd,ndhw->nchw", channels / channels.norm(dim=1, keepdim=True), x)


@dataclass(frozen=True)
class Network:
    """A fixed map from noises to images.

    Attributes:
        likeness: how far the image follows the noise pixel by pixel, 0 to 1.
        own: share of the noise that is in the image as it is.
        contrast: of a typical image.
        spread: of the logarithm of the contrast: the larger, the more hubs.
    """

    likeness: float = 0.5
    own: float = 0.05
    contrast: float = 0.6
    spread: float = 0.6

    def images(self, noise: Tensor) -> Tensor:
        """(N, *SHAPE) in (-1, 1)."""
        direction, pattern = draw(1, noise[0].numel()), smooth(draw(2, 1, *SHAPE), 2.0)
        of_image = noise.flatten(1) @ (direction / direction.norm())
        elsewhere = noise.flatten(1).flip(1).roll(7, dims=1).reshape(noise.shape)
        bent = elsewhere * elsewhere.roll(1, dims=-1).sign()
        field = _mix(smooth(self.likeness * noise + math.sqrt(1 - self.likeness**2) * bent, 1.2)) + self.own * noise
        return torch.tanh(self.contrast * (self.spread * of_image).exp()[:, None, None, None] * field + pattern / 2)


@dataclass(frozen=True)
class FreshSet:
    """One set of noises, and all that is made of them, float32 as in a probe pass.

    Attributes:
        seed: number of the set.
        num: N.
        network: the map from noises to images.
    """

    seed: int
    num: int
    network: Network = Network()

    def _draw(self, what: int, *shape: int) -> Tensor:
        return draw(100 + _DRAWS * self.seed + what, self.num, *shape)

    @cached_property
    def noise(self) -> Tensor:
        """(N, *SHAPE) white."""
        return self._draw(0, *SHAPE).float()

    @cached_property
    def x_0(self) -> Tensor:
        """The network's images."""
        return self.network.images(self.noise.double()).float()

    @cached_property
    def other(self) -> Tensor:
        """Those of a similar network."""
        network = replace(self.network, likeness=self.network.likeness + 0.3, contrast=0.9 * self.network.contrast)
        return network.images(self.noise.double()).float()

    @cached_property
    def latent(self) -> Tensor:
        """Noise, some of the image, and a smooth error."""
        flatness = 1 / (0.3 + self.x_0.double().flatten(1).std(dim=1))[:, None, None, None]
        error = _mix(smooth(self._draw(1, *SHAPE), 1.5))
        return (0.9 * self.noise + 0.4 * self.x_0 + 0.5 * flatness * error).float()

    @cached_property
    def heavy(self) -> Tensor:
        """Images with contrasts of which a few are huge: a few images make the correlations."""
        contrast = (0.7 * self._draw(2, 1, 1, 1)).exp() / self.x_0.flatten(1).std(dim=1)[:, None, None, None]
        return (self.x_0 * contrast).float()

    @cached_property
    def trajectory(self) -> TrajectoryDistances:
        """From the noises to the images on a bent way, in steps of which the first are small."""
        recorder = TrajectoryRecorder(_STEPS)
        for index in range(_STEPS):
            angle = ((index + 1) / _STEPS) ** 2 * math.pi / 2
            x = math.cos(angle) * self.noise + math.sin(angle) * self.x_0
            recorder.on_step(SimpleNamespace(index=index, x=x))
        return recorder.distances(self.noise, self.latent)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """(N, 64) images of 8 x 8 pixels, and noises of theirs: nearly those of ZCA whitening, bent, and noisy."""
        x = small_images(100 + _DRAWS * self.seed + 3, self.num)
        kernel = smooth(torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8), 0.8).flatten(1)
        eigenvalues, vectors = torch.linalg.eigh(0.4 * kernel @ kernel.T + 0.01 * torch.eye(64, dtype=torch.float64))
        z = x @ (vectors * eigenvalues**-0.45) @ vectors.T
        return x, z + 0.3 * z.tanh() + 0.5 * self._draw(5, 64)


def small_images(seed: int, num: int) -> Tensor:
    """(N, 64) smooth images of 8 x 8 pixels with a little noise; seeds ``seed`` and the next one."""
    images = torch.tanh(0.8 * smooth(draw(seed, num, 1, 8, 8), 0.8))
    return images.flatten(1) + 0.05 * draw(seed + 1, num, 64)
