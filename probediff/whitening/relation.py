"""How samples resemble the noises that they were made from (P2, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probediff.measures.covariance import paired_moments

_FEWEST_CELLS = 4
_PIXELS_PER_CELL = 8


def pair_statistics(noise: Tensor, images: Tensor) -> tuple[dict[str, float], Tensor]:
    """Paired against random pairs, and noise pixels against image pixels.

    A random pair is a noise with the image of the next one.

    Args:
        noise: (N, C, H, W), N at least 3.
        images: (N, C, H, W) made from them.

    Returns:
        Numbers, and the (D, D) float64 correlations over the samples of noise pixels (rows) with image pixels.

    Raises:
        ValueError: fewer than 3 pairs, or shapes that differ.
    """
    if noise.shape != images.shape or len(noise) < 3:
        raise ValueError(
            f"noise and images must be 3 pairs or more of one shape, got {tuple(noise.shape)} and "
            f"{tuple(images.shape)}; raise num_samples"
        )
    rows, made = noise.flatten(1).double(), images.flatten(1).double()
    values = {"num_samples": float(len(rows)), "random_pearson_null_std": rows.shape[1] ** -0.5}
    for name, other in (("paired", made), ("random", made.roll(-1, dims=0))):
        pearson = _pearson(rows, other)
        values |= {
            f"{name}_l2": float((rows - other).norm(dim=1).mean()),
            f"{name}_pearson": float(pearson.mean()),
            f"{name}_pearson_std": float(pearson.std()),
        }
    correlation = _cross_correlation(noise, images)
    diagonal, size = correlation.diagonal(), len(correlation)
    rest = correlation.square().sum() - diagonal.square().sum()
    values |= {
        "diagonal_correlation": float(diagonal.mean()),
        "off_diagonal_rms": float((rest.clamp(min=0) / (size * (size - 1))).sqrt()),
        "correlation_null_std": (len(rows) - 1) ** -0.5,
        "diagonal_largest_share": float((correlation.abs().argmax(dim=1) == torch.arange(size)).double().mean()),
        "diagonal_largest_share_null": 1 / size,
    }
    return values, correlation


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """(N,) correlation over the pixels of matching rows; 0 for a constant row."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(dim=1) / norms.clamp(min=torch.finfo(torch.float64).tiny)


def _cross_correlation(noise: Tensor, images: Tensor) -> Tensor:
    pairs = paired_moments([(noise, images)])
    scale = pairs.x.covariance.diagonal().sqrt()[:, None] * pairs.z_variance.sqrt()
    # A pixel that never changes is correlated with nothing.
    return torch.where(scale > 0, pairs.cross_covariance / scale.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def cells(height: int) -> int:
    """Side of the grid that holds the low frequencies: that of P2's 8 at 64 pixels, at least 4."""
    return min(height, max(_FEWEST_CELLS, height // _PIXELS_PER_CELL))


def with_low_part(noise: Tensor, low: Tensor) -> Tensor:
    """(N, C, H, W) noises whose means over blocks of pixels are replaced by ``low`` (C, cells, cells).

    Where ``low`` is that of a white noise, each of them is white.

    Raises:
        ValueError: sides that the grid does not divide.
    """
    side = low.shape[-1]
    if noise.shape[-1] % side or noise.shape[-2] % side:
        raise ValueError(f"sides of the images must be divisible by {side}, got {tuple(noise.shape[-2:])}")
    return noise + _enlarged(low[None] - low_part(noise, side), noise)


def low_part(images: Tensor, side: int) -> Tensor:
    """(N, C, side, side) means over blocks of pixels."""
    return torch.nn.functional.adaptive_avg_pool2d(images, side)


def _enlarged(low: Tensor, like: Tensor) -> Tensor:
    down, across = like.shape[-2] // low.shape[-2], like.shape[-1] // low.shape[-1]
    return low.repeat_interleave(down, dim=-2).repeat_interleave(across, dim=-1)


def averages(noise: Tensor, images: Tensor, mean_image: Tensor) -> tuple[list[dict[str, float]], Tensor, Tensor]:
    """Averages over ever more images whose noises share their low part, beside the averages of the noises.

    Args:
        noise: (N, C, H, W) as `with_low_part` makes them.
        images: (N, C, H, W) made from them.
        mean_image: (C, H, W) mean of images of unrelated noises; what all images have in common says nothing.

    Returns:
        For 1, 10, 100, ... and N images the correlation of the average's low part with the shared one (for unrelated
        noises its standard deviation is ``pearson_null_std``); the averages (K, C, H, W) of the noises and the images.
    """
    side = cells(noise.shape[-1])
    shared = low_part(noise[:1], side)
    counts = _decades(len(noise))
    mean_noise = torch.stack([noise[:n].mean(dim=0) for n in counts])
    mean_images = torch.stack([images[:n].mean(dim=0) for n in counts])
    found = low_part(mean_images - mean_image, side).flatten(1).double()
    pearson = _pearson(shared.flatten(1).double().expand_as(found), found)
    null_std = (found.shape[1] - 1) ** -0.5
    rows = [
        {"num_images": float(n), "pearson": float(r), "pearson_null_std": null_std}
        for n, r in zip(counts, pearson, strict=True)
    ]
    return rows, mean_noise, mean_images


def _decades(most: int) -> Sequence[int]:
    below = [10**k for k in range(len(str(most))) if 10**k < most]
    return [*below, most]
