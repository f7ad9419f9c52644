"""Analytic denoisers whose every pixel looks at some pixels of the training images: local patches, PCA locality."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from probediff.denoisers.filtered import FilteredPosteriorMean, Query
from probediff.denoisers.patch_sizes import PatchSize, patch_size_by_timestep
from probediff.denoisers.wiener import WienerDenoiser
from probediff.measures.covariance import Moments
from probediff.schedule import NoiseSchedule

#: A value whose own weight in the Wiener filter is at most this times the largest one counts as constant.
_CONSTANT_PIXEL = 1e-6


class _MaskedPosteriorMean(FilteredPosteriorMean):
    """Each of P outputs looks at the pixels of a mask; the source is the training images, at the same place."""

    @property
    def _numbers_a_pair(self) -> int:
        return self.points[0].numel()

    @abstractmethod
    def _sum_seen(self, squares: Tensor, key: int) -> Tensor:
        """Sum squares (D, n) over what each output looks at, (P, n)."""

    def _expected_image(self, query: Query, key: int) -> Tensor:
        rows = query.rows.flatten(1).T[:, :, None]
        scale, factor = query.scale[:, None], (-1 / (2 * query.noise))[:, None]

        def compare(points: Tensor) -> tuple[Tensor, Tensor]:
            # Differences before squares, so that near t = 0 no digits cancel.
            squares = (rows - scale * points.flatten(1).T[:, None]).square()
            exponents = self._sum_seen(squares.flatten(1), key).unflatten(1, squares.shape[1:]).mul_(factor)
            return exponents, points.reshape(len(points), -1, len(exponents)).permute(2, 0, 1)

        return self._posterior_mean(compare, len(query.rows)).permute(1, 2, 0).reshape(query.rows.shape)


class LocalScoreMachine(_MaskedPosteriorMean):
    """Each pixel looks at a square patch around itself, in all channels, at the same place of the training images.

    The local score machine (LS) of Kamb & Ganguli, *An analytic theory of creativity in convolutional diffusion
    models*, arXiv 2412.20292. Outside the image the query and the images are 0, so nothing differs there.

    Args:
        images, schedule, mirrored: As of the base class.
        patch_size: In pixels, one odd number or (sigma, size) pairs: each size holds from its noise level
            sigma = sqrt((1 - a) / a) upwards. By default `patch_sizes.CIFAR10_PATCH_SIZES`, which their authors
            calibrated against networks on CIFAR-10; no larger than the image.

    Raises:
        TypeError, ValueError: As of the base class, or on a `patch_size` of another kind.
    """

    patch_sizes: Tensor

    def __init__(
        self, images: Tensor, schedule: NoiseSchedule, mirrored: bool = False, patch_size: PatchSize | None = None
    ) -> None:
        super().__init__(images, schedule, mirrored)
        height, width = images.shape[2:]
        sizes = patch_size_by_timestep(patch_size, schedule, (height, width))
        self.register_buffer("patch_sizes", sizes.to(images.device))

    def _keys(self, timestep: Tensor) -> Tensor:
        return self.patch_sizes[timestep]

    def _sum_seen(self, squares: Tensor, key: int) -> Tensor:
        channels, height, width = self.points.shape[1:]
        pixels = squares.reshape(channels, height, -1).sum(0)
        vertical = (_band(height, key).to(pixels) @ pixels).reshape(height, width, -1)
        return (_band(width, key).to(pixels) @ vertical).flatten(0, 1)


def _band(length: int, patch_size: int) -> Tensor:
    """(length, length), true where two places are in one patch around either of them."""
    place = torch.arange(length)
    return (place[:, None] - place).abs() <= patch_size // 2


class PCALocality(_MaskedPosteriorMean):
    """Each value looks at those that the Wiener filter of the images' covariance weighs enough, at the same place.

    Lukoianov et al., *Locality in Image Diffusion Models Emerges from Data Statistics*, arXiv 2509.09672. With the
    filter L = a S (a S + (1 - a) I)^-1 and W[q, p] = L[q, p] / L[q, q], output p looks at the values q (pixel and
    channel) for which |W[q, p]| is at least `mask_threshold` times the largest |W| of all. A constant value q, whose
    L[q, q] is less than 1e-6 of the largest, looks at itself.

    The eigenbasis of S takes D^3 operations once, and each change of the timestep D^3 more for its mask, which is kept
    until the timestep changes.

    Args:
        images, schedule, mirrored: As of the base class; the divisor of S is M - 1, also for mirrored images.
        mask_threshold: In (0, 1]; 0.05 is the authors' configuration for CIFAR-10.
        statistics: Mean and covariance, where the images are only a part of a larger set; by default their own.

    Raises:
        TypeError, ValueError: As of the base class, or on a `mask_threshold` outside (0, 1].
    """

    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(
        self,
        images: Tensor,
        schedule: NoiseSchedule,
        mirrored: bool = False,
        mask_threshold: float = 0.05,
        statistics: Moments | None = None,
    ) -> None:
        if not 0 < mask_threshold <= 1:
            raise ValueError(f"mask_threshold must lie in (0, 1], got {mask_threshold}: 0.05 is usual")
        super().__init__(images, schedule, mirrored)
        self.mask_threshold = float(mask_threshold)
        wiener = WienerDenoiser.of_images(images, schedule, mirrored, statistics)
        self.register_buffer("eigenvalues", wiener.eigenvalues)
        self.register_buffer("eigenvectors", wiener.eigenvectors)
        self._kept_mask: tuple[int, Tensor] | None = None

    def _keys(self, timestep: Tensor) -> Tensor:
        return timestep

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._kept_mask = None

    def _sum_seen(self, squares: Tensor, key: int) -> Tensor:
        if self._kept_mask is None or self._kept_mask[0] != key or self._kept_mask[1].dtype != squares.dtype:
            self._kept_mask = key, self._mask(key).T.to(squares.dtype)
        return self._kept_mask[1].to(squares.device) @ squares

    def _mask(self, timestep: int) -> Tensor:
        """(D, D) of bool: whether output p, in columns, looks at the value q, in rows."""
        signal = self.signal_variance[timestep] * self.eigenvalues
        # L but for the factor a, which no ratio sees: it would be next to 0 at the noisiest timesteps.
        shrinkage = self.eigenvalues / (self.noise_variance[timestep] + signal)
        wiener = (self.eigenvectors * shrinkage) @ self.eigenvectors.T
        own = wiener.diagonal().clone()
        is_constant = own <= _CONSTANT_PIXEL * own.amax()
        weights = (wiener / own.masked_fill(is_constant, 1)[:, None]).abs_()
        weights[is_constant] = 0
        weights.diagonal()[is_constant] = 1
        return weights >= self.mask_threshold * weights.amax()
