"""The pictures of the whitening analysis, as (3, H, W) uint8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probediff.pictures import grid, to_uint8

#: Noises are shown from minus to plus so many of their own standard deviations.
_STDS = 3.0


def noises_picture(images: Tensor, noises: Sequence[Tensor]) -> Tensor:
    """A row of images, and below it one row for each (N, C, H, W) of their noises, each noise at its own scale."""
    rows = [to_uint8(images), *(_scaled(noise) for noise in noises)]
    return grid(torch.cat(rows), len(images))


def rows_picture(noises: Tensor, images: Tensor) -> Tensor:
    """A row of noises, and below it a row of images; both (N, C, H, W), each image at its own scale."""
    return grid(torch.cat([_scaled(noises), _scaled(images)]), len(noises))


def _scaled(noises: Tensor) -> Tensor:
    flat = noises.flatten(1).double()
    mean, std = flat.mean(dim=1), flat.std(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    shaped = [part.reshape(-1, 1, 1, 1) for part in (mean, std)]
    return to_uint8((noises - shaped[0]) / shaped[1], (-_STDS, _STDS))


def correlation_picture(correlation: Tensor) -> Tensor:
    """A square of (D, D) correlations: grey at 0, white at the largest absolute value and above, black at minus it."""
    largest = float(correlation.abs().amax().clamp(min=torch.finfo(torch.float64).tiny))
    return grid(to_uint8(correlation[None, None], (-largest, largest)), 1)


def whitened_picture(covariance: Tensor) -> Tensor:
    """A (D, D) covariance scaled to a mean variance of 1, and beside it its difference from the identity."""
    scaled = covariance / covariance.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    difference = scaled - torch.eye(len(scaled)).to(scaled)
    return grid(to_uint8(torch.stack([scaled, difference])[:, None], (-1, 1)), 2)
