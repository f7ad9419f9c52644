"""How strongly pixels are correlated over a set of images, and how strongly pure noise would be (P1, table 1).

P1 is *There and Back Again*.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, check_at_least, check_num_samples, standardised_columns
from probediff.measures.uncertainty import error_from_halves, half_splits

# A block of 2048 x 2048 float64 correlations is 32 MiB.
_BLOCK = 2048
# Pairs whose correlations are computed on halves of the images, and how many at a time; pixels that tell which.
_MOST_PAIRS, _PAIRS_AT_ONCE, _FEW = 65_536, 4096, 256
# An absolute value under which pairs are not looked for any more: all are taken.
_SMALLEST = 1e-3
_FEWEST_FOR_HALVES = 32
# Share of a pixel's squares under which its variance in a half is rounding of float32.
_ROUNDING = 1e-5
# Fisher's z is infinite at 1.
_LARGEST_FOR_Z = 1 - 1e-12


def top_k_correlation(images: Tensor, k: int = 10) -> float:
    """Mean of the k largest absolute Pearson correlations between different pixels over N images (P1, table 1).

    Streamed over blocks of the upper triangle in float64: no D x D matrix is kept, only a float64 copy of the images.
    A pixel that is the same in all images has no correlation and is left out. The value depends on N and D even for
    pure noise: report `null_top_k_correlation` beside it.

    Args:
        images: (N, C, H, W) or (N, D). N at least 2 (with N = 2 every correlation is 1 or -1).
        k: How many pairs enter the mean.

    Raises:
        ValueError: N < 2, fewer than k pairs of pixels that vary, wrong rank, or values not finite.
    """
    rows = as_rows("images", images)
    check_at_least("k", k, 1)
    check_num_samples("images", len(rows), 2, "a correlation")
    varying = _varying_columns(rows, k)
    best = varying.new_empty(0, dtype=torch.float64)
    for block in _upper_correlations(varying):
        sizes = block.abs_()
        if len(best) == k:
            # Nearly every block has but a few that could still enter, and a comparison is cheaper than topk.
            sizes = sizes[sizes > best[-1]]
        merged = torch.cat([best, sizes])
        best = merged.topk(min(k, len(merged))).values
    return float(best.clamp(max=1.0).mean())


def _varying_columns(rows: Tensor, k: int) -> Tensor:
    low, high = torch.aminmax(rows, dim=0)
    varies = low != high
    num_pixels = int(varies.sum())
    if math.comb(num_pixels, 2) < k:
        raise ValueError(
            f"images must have at least k = {k} pairs of pixels that vary over the samples, got {num_pixels} such "
            f"pixels of {rows.shape[1]} ({math.comb(num_pixels, 2)} pairs); lower k or pass other images"
        )
    return rows if num_pixels == rows.shape[1] else rows[:, varies]


def _upper_correlations(rows: Tensor) -> Iterator[Tensor]:
    """Every correlation between two different columns once, as flat float64 blocks."""
    blocks = [standardised_columns(columns) for columns in torch.split(rows, _BLOCK, dim=1)]
    for i, left in enumerate(blocks):
        own = left.T @ left
        above = torch.ones_like(own, dtype=torch.bool).triu(diagonal=1)
        yield own[above]
        for right in blocks[i + 1 :]:
            yield (left.T @ right).flatten()


def top_k_correlation_error(images: Tensor, k: int = 10) -> float:
    """Standard error of `top_k_correlation` over fresh sets of N images.

    From 15 ways to halve the images, on the scale of Fisher's z = atanh r, where the spread of a correlation does not
    depend on its size. Only the 65,536 pairs of pixels that are correlated most over all images are looked at in the
    halves: for white noise at D = 3072 the error is then some 5 % too large, and up to D = 362 these are all pairs.

    Args:
        images: As for `top_k_correlation`.
        k: Likewise.

    Returns:
        NaN for fewer than 32 images, whose halves are too small.

    Raises:
        ValueError: As `top_k_correlation`.
    """
    rows = as_rows("images", images)
    check_at_least("k", k, 1)
    if len(rows) < _FEWEST_FOR_HALVES:
        return math.nan
    # Of norm sqrt(N), one row a pixel. What halves differ by is far above the rounding of float32.
    pixels = (standardised_columns(_varying_columns(rows, k)) * math.sqrt(len(rows))).T.float().contiguous()
    left, right = _most_correlated_pairs(pixels, max(k, _MOST_PAIRS))
    in_half = half_splits(len(rows)).to(rows.device)
    halves = torch.cat([torch.ones_like(in_half[:1]), in_half, ~in_half]).T.float()
    weights = halves / halves.sum(dim=0)
    mean = pixels @ weights
    squares = pixels.square() @ weights
    variance = squares - mean.square()
    # A pixel that is the same all over a half has no correlation there; of its variance rounding is left.
    scale = variance.where(variance > _ROUNDING * squares, torch.inf).sqrt_()
    best = pixels.new_empty(0, weights.shape[1])
    for a, b in zip(left.split(_PAIRS_AT_ONCE), right.split(_PAIRS_AT_ONCE), strict=True):
        covariance = (pixels[a] * pixels[b]) @ weights - mean[a] * mean[b]
        best = torch.cat([best, (covariance / (scale[a] * scale[b])).abs_()])
        best = best.topk(min(k, len(best)), dim=0).values
    value, *z = best.mean(dim=0).double().clamp(max=_LARGEST_FOR_Z)
    one, other = torch.stack(z).atanh().chunk(2)
    return float(1 - value**2) * error_from_halves(one, other)


def _most_correlated_pairs(pixels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of both rows of the ``count`` most correlated pairs, or of all pairs where there are fewer."""
    num = len(pixels)
    share = 2 * count / math.comb(num, 2)
    least = 0.0
    if share < 1:
        # A few pixels tell, roughly, which correlations are among the largest.
        few = pixels[:: max(1, num // _FEW)]
        sizes = (few @ few.T).abs_()[*torch.triu_indices(len(few), len(few), 1)].sort(descending=True).values
        least = float(sizes[int(share * len(sizes))])
    best, pairs = _pairs_from(pixels, least)
    while len(best) < min(count, math.comb(num, 2)):
        least = least / 2 if least > _SMALLEST else -1.0
        best, pairs = _pairs_from(pixels, least)
    if len(best) > count:
        pairs = pairs[best.topk(count).indices]
    return pairs // num, pairs % num


def _pairs_from(pixels: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Absolute products of all pairs of rows that are above ``least``, and the pairs as one number."""
    num, sizes, pairs = len(pixels), [], []
    for i in range(0, num, _BLOCK):
        for j in range(i, num, _BLOCK):
            block = (pixels[i : i + _BLOCK] @ pixels[j : j + _BLOCK].T).abs_()
            is_large = block > least
            row, column = (is_large.triu(1) if i == j else is_large).nonzero(as_tuple=True)
            sizes.append(block[row, column])
            pairs.append((i + row) * num + j + column)
    return torch.cat(sizes), torch.cat(pairs)


def null_top_k_correlation(num_images: int, num_pixels: int, k: int = 10) -> float:
    """What `top_k_correlation` is expected to give for independent normal pixels.

    r sqrt((N - 2) / (1 - r^2)) has Student's law with N - 2 degrees of freedom. The i-th smallest of M = D (D - 1) / 2
    two-sided tail probabilities has, over sets of images, the geometric mean exp(psi(i)) / M, with the digamma function
    psi: there the i-th largest absolute value is taken. 0.1552 at N = 1000, D = 3072.

    Args:
        num_images: N, at least 4.
        num_pixels: D, with at least k pairs.
        k: How many pairs enter the mean.

    Raises:
        ValueError: `num_images` under 4, or fewer than k pairs.
    """
    from scipy.stats import t as student

    check_at_least("num_images", num_images, 4)
    check_at_least("num_pixels", num_pixels, 2)
    check_at_least("k", k, 1)
    num_pairs = math.comb(num_pixels, 2)
    if k > num_pairs:
        raise ValueError(f"k must be at most the {num_pairs} pairs of {num_pixels} pixels, got {k}; lower k")
    two_sided = torch.digamma(torch.arange(1, k + 1, dtype=torch.float64)).exp() / num_pairs
    quantiles = torch.as_tensor(student.isf(two_sided.numpy() / 2, num_images - 2))
    return float((quantiles / (num_images - 2 + quantiles.square()).sqrt()).mean())
