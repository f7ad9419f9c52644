"""Noises of images by the exact denoiser of Gaussian data: every map is linear and costs two matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.measures.whitening import Whitening
from probediff.schedule import Convention, NoiseSchedule
from probediff.whitening.gains import gaussian_gain
from probediff.whitening.pairs import BatchStore, Iterates


@dataclass(frozen=True, eq=False)
class GaussianNoises:
    """The denoiser of N(mean, S + ridge) under a schedule, unclipped, in float64.

    Attributes:
        whitening: the statistics.
        schedule: of the model beside it.
        convention: of DDIM.
    """

    whitening: Whitening
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
        return self._inversion(num_steps)[0]

    def matrix(self, gain: Tensor) -> Tensor:
        """(D, D) of the map that multiplies by ``gain`` (D,) along the eigenvectors."""
        return (self.whitening.eigenvectors * gain) @ self.whitening.eigenvectors.T

    def iterates(
        self, images: Tensor, timestep: int, counts: Sequence[int], store: BatchStore | None = None
    ) -> Iterates:
        """As `NoiseMaker.iterates`, by the closed form; nothing is stored."""
        zero = torch.zeros_like(self.whitening.mean)
        made = {n: self._mapped(images, self.iteration_gain(timestep, n), self.whitening.mean, zero) for n in counts}
        return Iterates(made)

    def limit(self, images: Tensor, timestep: int) -> Tensor:
        """Where the iteration ends: proportional to S^-1 (x - mean), in the shape of the images."""
        gain = self.iteration_gain(timestep, math.inf)
        return self._mapped(images, gain, self.whitening.mean, torch.zeros_like(gain))

    def latents(self, images: Tensor, num_steps: int) -> Tensor:
        """As `NoiseMaker.latents`."""
        gain, offset = self._inversion(num_steps)
        return self._mapped(images, gain, self.whitening.mean, offset)

    def samples(self, noise: Tensor, num_steps: int) -> Tensor:
        """As `NoiseMaker.samples`, without clipping."""
        gain, offset = self._sampling(num_steps)
        return self._mapped(noise, gain, torch.zeros_like(offset), offset)

    def _mapped(self, inputs: Tensor, gain: Tensor, centre: Tensor, offset: Tensor) -> Tensor:
        rows = self.whitening.checked_rows("images", inputs) - centre
        mapped = ((rows @ self.whitening.eigenvectors) * gain) @ self.whitening.eigenvectors.T + offset
        return mapped.reshape(inputs.shape).to(inputs)

    @cache  # noqa: B019 (one small pair of vectors a number of steps)
    def _inversion(self, num_steps: int) -> tuple[Tensor, Tensor]:
        centre = self.whitening.mean
        ends = ddim_invert(self._denoiser(), self.schedule, self._two(centre), num_steps, self.convention, clip=False)
        return self._gain(ends), ends[1]

    @cache  # noqa: B019
    def _sampling(self, num_steps: int) -> tuple[Tensor, Tensor]:
        centre = torch.zeros_like(self.whitening.mean)
        ends = ddim_sample(self._denoiser(), self.schedule, self._two(centre), num_steps, self.convention, clip=False)
        return self._gain(ends), ends[1]

    def _two(self, centre: Tensor) -> Tensor:
        """An image that is 1 along every eigenvector from the centre, and the centre: where they go tells all."""
        return torch.stack([centre + self.whitening.eigenvectors.sum(dim=1), centre])

    def _gain(self, ends: Tensor) -> Tensor:
        gain: Tensor = self.whitening.eigenvectors.T @ (ends[0] - ends[1])
        return gain

    def _denoiser(self) -> GaussianDenoiser:
        one = torch.ones(1, dtype=torch.float64)
        denoiser = GaussianDenoiser(one, one[None], self.schedule).eval()
        # Handed over, not decomposed once more, which takes a quarter of an hour at D = 12,288.
        denoiser.mean, denoiser.eigenvalues = self.whitening.mean, self.whitening.eigenvalues
        denoiser.eigenvectors = self.whitening.eigenvectors
        return denoiser
