"""The exact denoiser of Gaussian images whose statistics are the same at every place: it can be had from few images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StationaryGaussian:
    """Images from N(mean colour, stationary covariance), on a torus: the covariance is diagonal in frequencies.

    A full covariance of D dimensions needs more than D images; this one, a (C, C) matrix a frequency, can be told from
    a dozen, at any size.

    Attributes:
        mean: (C, 1, 1) float64, the mean colour.
        spectrum: (H, W // 2 + 1, C, C) complex128, Hermitian: the covariance of the channels at each frequency.
    """

    mean: Tensor
    spectrum: Tensor

    @classmethod
    def fit(cls, images: Tensor) -> StationaryGaussian:
        """Estimate it from (N, C, H, W) images.

        A frequency has N samples for a (C, C) matrix, which is shrunk towards the channels' mean power by
        C / (N + C), so that it can be inverted.
        """
        count, channels = images.shape[:2]
        rows = images.double()
        mean = rows.mean((0, 2, 3))[:, None, None]
        waves = torch.fft.rfft2(rows - mean, norm="ortho").permute(2, 3, 1, 0)
        spectrum = waves @ waves.mH / count
        power = spectrum.diagonal(dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
        shrinkage = channels / (count + channels)
        shrunk = (1 - shrinkage) * spectrum + shrinkage * power * torch.eye(channels, dtype=torch.float64)
        return cls(mean, shrunk)

    def eps(self, x_t: Tensor, alpha_bar: float) -> Tensor:
        """The expected noise sqrt(1 - a) (a S + (1 - a) I)^-1 (x_t - sqrt(a) mean) in x_t (N, C, H, W), float64."""
        waves = torch.fft.rfft2(x_t.double() - alpha_bar**0.5 * self.mean, norm="ortho").permute(2, 3, 1, 0)
        identity = torch.eye(self.spectrum.shape[-1], dtype=torch.float64)
        whitened = torch.linalg.solve(alpha_bar * self.spectrum + (1 - alpha_bar) * identity, waves)
        expected = (1 - alpha_bar) ** 0.5 * whitened.permute(3, 2, 0, 1)
        return torch.fft.irfft2(expected, s=x_t.shape[-2:], norm="ortho")
