"""The errors of a model on noised real images, under several readings of it, beside those of the Gaussian denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from probediff.denoisers.stationary import StationaryGaussian
from probediff.models.base import ProbeModel
from probediff.noise import derived_seed, seeded_noise
from probediff.probing.readings import Reading, ask

_NUM_FOLDS = 4
#: Smaller errors are those of rounding.
_TINY = 1e-9
_MOST_GAIN = math.log(2)


@dataclass(frozen=True, eq=False)
class ReadingErrors:
    """Mean squared errors of the predicted noise under one reading, float64; L noise levels.

    Attributes:
        reading: how the network was asked and its answer read.
        network: (N, L) of each image.
        gaussian: (N, L) of the Gaussian denoiser that was fitted to other ones of the images.
        trivial: (L,) of the best multiple of x_t plus the best colour.
    """

    reading: Reading
    network: Tensor
    gaussian: Tensor
    trivial: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log(e / g) of each level (L,): what the network's error is beside the Gaussian's."""
        return _log_mean(self.network) - _log_mean(self.gaussian)

    @property
    def ratio(self) -> float:
        """The geometric mean of e / g over the levels."""
        return float(self.log_ratio.mean().exp())

    @property
    def trivial_ratio(self) -> float:
        """The geometric mean of e / z over the levels: near 1 or above where the network knows nothing of images."""
        return float((_log_mean(self.network) - self.trivial.clamp(min=_TINY).log()).mean().exp())

    def gain_over(self, other: ReadingErrors) -> tuple[float, float]:
        """By which factor e / g is smaller than under another reading, and the logarithm's number of standard errors.

        A level counts for a factor of two at most, so that none decides alone. The standard error over the images is
        that of the delta method; images and noises are the same for both.
        """
        gains = other.log_ratio - self.log_ratio
        counted = gains.clamp(max=_MOST_GAIN)
        by_image = ((other._shares() - self._shares()) * (counted == gains)).mean(1)
        gain = float(counted.mean())
        return math.exp(gain), gain / max(float(by_image.std()) / math.sqrt(len(by_image)), _TINY)

    def _shares(self) -> Tensor:
        """What each image adds to ``log_ratio``, (N, L) with the mean 0 over the images."""
        network, gaussian = (errors.clamp(min=_TINY) for errors in (self.network, self.gaussian))
        return network / network.mean(0) - gaussian / gaussian.mean(0)


def measure_readings(
    model: ProbeModel, readings: Sequence[Reading], x_0: Tensor, log_snr: Sequence[float], seed: int, batch_size: int
) -> list[ReadingErrors]:
    """Errors under readings of a model; readings whose question the network refuses are left out, but for the first.

    Args:
        model: the model, in eval mode.
        readings: those with the same question side by side.
        x_0: (N, C, H, W) of what the model diffuses.
        log_snr: of the noise levels; each reading takes its schedule's nearest ones.
        seed: of the noise, the same for all readings.
        batch_size: images a network evaluation.
    """
    measured = []
    for _, group in groupby(readings, lambda reading: reading.question):
        alike = list(group)
        try:
            measured += _measure_alike(model, alike, x_0, log_snr, seed, batch_size)
        except (TypeError, ValueError, IndexError, RuntimeError):
            # A network that refuses a fractional time, say, was not trained with it.
            if alike[0] is readings[0]:
                raise
    return measured


@torch.no_grad()
def _measure_alike(
    model: ProbeModel, alike: Sequence[Reading], x_0: Tensor, log_snr: Sequence[float], seed: int, batch_size: int
) -> list[ReadingErrors]:
    asked = alike[0]
    images = asked.images(x_0)
    network: list[list[Tensor]] = [[] for _ in alike]
    gaussian, trivial = [], []
    for index, value in enumerate(log_snr):
        timestep = asked.timestep(value)
        alpha_bar = float(asked.schedule.alpha_bar[timestep])
        eps = seeded_noise(derived_seed(seed, "wiring", index), range(len(x_0)), x_0.shape[1:])
        x_t = alpha_bar**0.5 * images + (1 - alpha_bar) ** 0.5 * eps
        answer = torch.cat([ask(model, asked, part, timestep) for part in x_t.split(batch_size)])
        for errors, reading in zip(network, alike, strict=True):
            errors.append(_mean_squares(reading.eps(answer, x_t.double(), alpha_bar) - eps))
        gaussian.append(_mean_squares(_gaussian_eps(images, x_t, alpha_bar) - eps))
        trivial.append(_trivial_error(x_t.double(), eps.double()))
    beside = torch.stack(gaussian, 1), torch.stack(trivial)
    return [ReadingErrors(r, torch.stack(errors, 1), *beside) for r, errors in zip(alike, network, strict=True)]


def _gaussian_eps(images: Tensor, x_t: Tensor, alpha_bar: float) -> Tensor:
    """What the Gaussian denoiser predicts for each image, fitted to images of which it is none."""
    fold = torch.arange(len(images)) % min(_NUM_FOLDS, len(images))
    eps = torch.empty_like(x_t, dtype=torch.float64)
    for left_out in fold.unique():
        mine = fold == left_out
        eps[mine] = StationaryGaussian.fit(images[~mine]).eps(x_t[mine], alpha_bar)
    return eps


def _trivial_error(x_t: Tensor, eps: Tensor) -> Tensor:
    x_t, eps = (rows - rows.mean((0, 2, 3), keepdim=True) for rows in (x_t, eps))
    multiple = (x_t * eps).sum() / (x_t**2).sum().clamp(min=_TINY)
    return ((eps - multiple * x_t) ** 2).mean()


def _mean_squares(errors: Tensor) -> Tensor:
    return errors.flatten(1).square().mean(1)


def _log_mean(errors: Tensor) -> Tensor:
    return errors.mean(0).clamp(min=_TINY).log()
