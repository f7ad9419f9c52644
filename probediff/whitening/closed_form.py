"""Noises of images by the exact denoiser of Gaussian data: every map is linear and costs two matrix products."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.measures.whitening import WhiteningTransform
from probediff.schedule import Convention, NoiseSchedule
from probediff.whitening.gains import gaussian_gain
from probediff.whitening.pairs import Iterates


@dataclass(frozen=True, eq=False)
class GaussianNoises:
    """The denoiser of N(mean, S + ridge) under a schedule, unclipped, in float64.

    Attributes:
        whitening: the statistics.
        schedule: of the model beside it.
        convention: of DDIM.
    """

    whitening: WhiteningTransform
    schedule: NoiseSchedule
    convention: Convention = "openai"

    def iteration_gain(self, timestep: int, count: float) -> Tensor:
        """(D,) what ``count`` iterations (inf: the limit) multiply by, along each eigenvector."""
        return gaussian_gain(self.whitening.eigenvalues, float(self.schedule.alpha_bar[timestep]), count)

    def inversion_gain(self, num_steps: int) -> Tensor:
        """(D,) what unclipped DDIM inversion multiplies by, along each eigenvector; close to s^(-1/2) for many steps.

        Raises:
            ValueError: ``num_steps`` that the schedule does not allow.
        """
        return self._affine(ddim_invert, num_steps)[0]

    def matrix(self, gain: Tensor) -> Tensor:
        """(D, D) of the map that multiplies by ``gain`` (D,) along the eigenvectors."""
        return (self.whitening.eigenvectors * gain) @ self.whitening.eigenvectors.T

    def iterates(self, images: Tensor, timestep: int, counts: Sequence[int]) -> Iterates:
        """As `NetworkNoises.iterates`, by the closed form."""
        centre = self.whitening.mean
        return Iterates({n: self._apply(images, self.iteration_gain(timestep, n), centre) for n in counts})

    def limit(self, images: Tensor, timestep: int) -> Tensor:
        """Where the iteration ends: proportional to S^-1 (x - mean), in the shape of the images."""
        return self._apply(images, self.iteration_gain(timestep, math.inf), self.whitening.mean)

    def latents(self, images: Tensor, num_steps: int) -> Tensor:
        """As `NetworkNoises.latents`."""
        gain, offset = self._affine(ddim_invert, num_steps)
        return self._apply(images, gain, self.whitening.mean, offset)

    def samples(self, noise: Tensor, num_steps: int) -> Tensor:
        """As `NetworkNoises.samples`, without clipping."""
        gain, offset = self._affine(ddim_sample, num_steps)
        return self._apply(noise, gain, 0.0, offset)

    def _apply(self, inputs: Tensor, gain: Tensor, centre: Tensor | float, offset: Tensor | float = 0.0) -> Tensor:
        rows = self.whitening.checked_rows("images", inputs) - centre
        outputs = ((rows @ self.whitening.eigenvectors) * gain) @ self.whitening.eigenvectors.T + offset
        return outputs.reshape(inputs.shape).to(inputs)

    @cache  # noqa: B019 (two small vectors a number of steps)
    def _affine(self, walk: Callable[..., Tensor], num_steps: int) -> tuple[Tensor, Tensor]:
        """Gain along each eigenvector (D,), and offset (D,), of inverting from the mean or sampling from zero."""
        mean, eigenvalues, eigenvectors = self.whitening.mean, self.whitening.eigenvalues, self.whitening.eigenvectors
        denoiser = GaussianDenoiser.from_eigenbasis(mean, eigenvalues, eigenvectors, self.schedule).eval()
        centre = mean if walk is ddim_invert else torch.zeros_like(mean)
        # Where the centre goes, and a point that is 1 along every eigenvector from it, tells all of an affine map.
        starts = torch.stack([centre + eigenvectors.sum(dim=1), centre])
        ends = walk(denoiser, self.schedule, starts, num_steps, self.convention, clip=False)
        return eigenvectors.T @ (ends[0] - ends[1]), ends[1]
