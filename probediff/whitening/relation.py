"""How samples resemble the noises that they were made from (P2, figure 2).

P2: *First-step inference in diffusion models learns image de-whitening*.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probediff.measures.covariance import paired_moments
from probediff.measures.uncertainty import WithError, jackknife, mean_with_error, split_errors
from probediff.noise import seeded_noise
from probediff.pictures import grid, own_contrast, to_uint8
from probediff.runs.record import STANDARD_ERRORS
from probediff.whitening.transforms import CORNER

_FEWEST_CELLS = 4
_PIXELS_PER_CELL = 8
_SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class Relation:
    """What `relate` measures.

    Attributes:
        numbers: of `pair_statistics`.
        correlation: (D, D) over the samples, of noise pixels (rows) with image pixels.
        rows: of `averages`.
        noise_means: (K, C, H, W) averages of noises that share their low part.
        image_means: (K, C, H, W) averages of the images made from them.
    """

    numbers: dict[str, Any]
    correlation: Tensor
    rows: list[dict[str, float]]
    noise_means: Tensor
    image_means: Tensor

    def record(self) -> dict[str, Any]:
        """The numbers as plain types."""
        return self.numbers | {"averages": self.rows}

    def arrays(self) -> dict[str, Tensor]:
        """The correlations of the first values."""
        return {"cross_correlation_corner": self.correlation[:CORNER, :CORNER].float()}

    def pictures(self) -> dict[str, Tensor]:
        """The correlations, grey at 0 and white or black at the largest; the averages, each at its own contrast."""
        corner = self.correlation[:CORNER, :CORNER]
        largest = float(corner.abs().amax().clamp(min=_SMALLEST))
        means = torch.cat([own_contrast(self.noise_means), own_contrast(self.image_means)])
        return {
            "f2_cross_correlation": grid(to_uint8(corner[None, None], (-largest, largest)), 1),
            "f2_averages": grid(means, len(self.noise_means)),
        }


def relate(sample: Callable[[Tensor], Tensor], shape: tuple[int, ...], num_samples: int, noise_seed: int) -> Relation:
    """Compare white noises with their samples, and average samples whose noises share their low frequencies.

    Args:
        sample: (N, C, H, W) noises -> images.
        shape: (C, H, W).
        num_samples: of each of the two, at least 3.
        noise_seed: of all noises.

    Raises:
        ValueError: too few samples, or sides that the grid of the low frequencies does not divide.
    """
    noise = seeded_noise(noise_seed, range(2 * num_samples), shape)
    own, others = noise[:num_samples], noise[num_samples:]
    images = sample(own)
    numbers, correlation = pair_statistics(own, images)
    alike = with_low_part(others, low_part(own[:1], cells(shape[-1]))[0])
    return Relation(numbers, correlation, *averages(alike, sample(alike), images.mean(dim=0)))


def pair_statistics(noise: Tensor, images: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Paired against random pairs, and noise pixels against image pixels.

    A random pair is a noise with the image of the next one.

    Args:
        noise: (N, C, H, W), N at least 3.
        images: (N, C, H, W) made from them.

    Returns:
        Numbers, with the standard errors of means over pairs, and the (D, D) float64 correlations over the samples of
        noise pixels (rows) with image pixels.

    Raises:
        ValueError: fewer than 3 pairs, or shapes that differ.
    """
    if noise.shape != images.shape or len(noise) < 3:
        raise ValueError(
            f"noise and images must be 3 pairs or more of one shape, got {tuple(noise.shape)} and "
            f"{tuple(images.shape)}; raise num_samples"
        )
    rows, image_rows = noise.flatten(1).double(), images.flatten(1).double()
    numbers: dict[str, Any] = {"num_samples": float(len(rows)), "random_pearson_null_std": rows.shape[1] ** -0.5}
    means: dict[str, WithError] = {}
    for name, other in (("paired", image_rows), ("random", image_rows.roll(-1, dims=0))):
        pearson = _pearson(rows, other)
        means |= {
            f"{name}_l2": mean_with_error((rows - other).norm(dim=1)),
            f"{name}_pearson": mean_with_error(pearson),
        }
        numbers[f"{name}_pearson_std"] = float(pearson.std())
    values, errors = split_errors(means)
    numbers |= values | {STANDARD_ERRORS: errors | {"diagonal_correlation": _diagonal_error(rows, image_rows)}}
    pairs = paired_moments([(noise, images)])
    scale = pairs.x.covariance.diagonal().sqrt()[:, None] * pairs.z_variance.sqrt()
    # A pixel that never changes is correlated with nothing.
    correlation = torch.where(scale > 0, pairs.cross_covariance / scale.clamp(min=_SMALLEST), 0.0)
    diagonal, size = correlation.diagonal(), len(correlation)
    rest = correlation.square().sum() - diagonal.square().sum()
    numbers |= {
        "diagonal_correlation": float(diagonal.mean()),
        "off_diagonal_rms": float((rest.clamp(min=0) / (size * (size - 1))).sqrt()),
        "correlation_null_std": (len(rows) - 1) ** -0.5,
        "diagonal_largest_share": float((correlation.abs().argmax(dim=1) == torch.arange(size)).double().mean()),
        "diagonal_largest_share_null": 1 / size,
    }
    return numbers, correlation


def _diagonal_error(noise: Tensor, images: Tensor) -> float:
    """Standard error of the mean over pixels of the correlation of noise and image: the delete-a-group jackknife."""

    def diagonal(kept: Tensor) -> dict[str, float]:
        a, b = (rows[kept] - rows[kept].mean(dim=0) for rows in (noise, images))
        scale = a.norm(dim=0) * b.norm(dim=0)
        products = (a * b).sum(dim=0)
        return {"mean": float(torch.where(scale > 0, products / scale.clamp(min=_SMALLEST), 0.0).mean())}

    return jackknife(diagonal, len(noise))["mean"]


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """(N,) correlation over the pixels of matching rows; 0 for a constant row."""
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(dim=1) / norms.clamp(min=_SMALLEST)


def cells(height: int) -> int:
    """Side of the grid that holds the low frequencies: that of P2's 8 at 64 pixels, at least 4."""
    return min(height, max(_FEWEST_CELLS, height // _PIXELS_PER_CELL))


def low_part(images: Tensor, side: int) -> Tensor:
    """(N, C, side, side) means over blocks of pixels."""
    return torch.nn.functional.adaptive_avg_pool2d(images, side)


def with_low_part(noise: Tensor, low: Tensor) -> Tensor:
    """(N, C, H, W) noises whose means over blocks of pixels are replaced by ``low`` (C, cells, cells).

    Where ``low`` is that of a white noise, each of them is white.

    Raises:
        ValueError: sides that the grid does not divide.
    """
    side = low.shape[-1]
    if noise.shape[-1] % side or noise.shape[-2] % side:
        raise ValueError(f"sides of the images must be divisible by {side}, got {tuple(noise.shape[-2:])}")
    down, across = noise.shape[-2] // side, noise.shape[-1] // side
    difference = low[None] - low_part(noise, side)
    return noise + difference.repeat_interleave(down, dim=-2).repeat_interleave(across, dim=-1)


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
    counts = [10**k for k in range(len(str(len(noise)))) if 10**k < len(noise)] + [len(noise)]
    noise_means = torch.stack([noise[:n].mean(dim=0) for n in counts])
    image_means = torch.stack([images[:n].mean(dim=0) for n in counts])
    low = low_part(image_means - mean_image, side).flatten(1).double()
    pearson = _pearson(low_part(noise[:1], side).flatten(1).double().expand_as(low), low)
    null_std = (low.shape[1] - 1) ** -0.5
    rows = [
        {"num_images": float(n), "pearson": float(r), "pearson_null_std": null_std}
        for n, r in zip(counts, pearson, strict=True)
    ]
    return rows, noise_means, image_means
