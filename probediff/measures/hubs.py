"""Hubs: samples that are the nearest image of many noises, and what sets them apart (P1, figures 7 and 8).

P1, *There and Back Again*, finds that the samples that capture wrong noises are flat. But |noise - x|^2 = |noise|^2 -
2 noise.x + |x|^2: of images that have little to do with a noise the one with the smallest |x|^2 is nearest to it, and
a flat image has a small one only if it is grey too. So both stand here side by side, weighted by captures, for a
single hub can capture most noises.
"""

import math

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, check_at_least, float64_chunks


def hub_counts(nearest: Tensor, num_candidates: int) -> Tensor:
    """How many queries chose each candidate, (num_candidates,) int64 (P1, figures 7 and 8: hubs draw many).

    Args:
        nearest: (N,) int64. For each query the index of its candidate, as in `AssignmentAccuracy.nearest_image`.
        num_candidates: Candidates that could be chosen.

    Raises:
        TypeError: `nearest` is not int64.
        ValueError: It is not (N,) with N > 0, or an index is outside 0..num_candidates-1.
    """
    check_at_least("num_candidates", num_candidates, 1)
    if not isinstance(nearest, Tensor) or nearest.dtype != torch.int64:
        got = nearest.dtype if isinstance(nearest, Tensor) else type(nearest).__name__
        raise TypeError(f"nearest must be an int64 tensor, got {got}; pass the nearest_* of assignment_accuracy")
    if nearest.ndim != 1 or len(nearest) == 0:
        raise ValueError(f"nearest must be (N,) with N > 0, got shape {tuple(nearest.shape)}; pass one index a query")
    low, high = (int(extreme) for extreme in torch.aminmax(nearest))
    if low < 0 or high >= num_candidates:
        raise ValueError(
            f"nearest must lie in 0..{num_candidates - 1}, got {low}..{high}; num_candidates must count every candidate"
        )
    return torch.bincount(nearest, minlength=num_candidates)


def pixel_variance(images: Tensor) -> Tensor:
    """Variance over the D values of each image, dividing by D, (N,) float64 (P1, figures 7 and 8).

    Args:
        images: (N, C, H, W) or (N, D).

    Raises:
        ValueError: Wrong rank, nothing in it, or values not finite.
    """
    chunks = float64_chunks(as_rows("images", images))
    return torch.cat([chunk.var(dim=1, correction=0) for (chunk,) in chunks])


def squared_norm_per_value(images: Tensor) -> Tensor:
    """|x|^2 / D of each image, (N,) float64: the variance over its values plus the square of their mean.

    Args:
        images: (N, C, H, W) or (N, D).

    Raises:
        ValueError: Wrong rank, nothing in it, or values not finite.
    """
    chunks = float64_chunks(as_rows("images", images))
    return torch.cat([chunk.square().mean(dim=1) for (chunk,) in chunks])


def squared_brightness(images: Tensor) -> Tensor:
    """Square of the mean over the D values of each image, (N,) float64: how far from grey it is as a whole.

    With `pixel_variance` it adds up to `squared_norm_per_value`.

    Args:
        images: (N, C, H, W) or (N, D), 0 for grey.

    Raises:
        ValueError: Wrong rank, nothing in it, or values not finite.
    """
    chunks = float64_chunks(as_rows("images", images))
    return torch.cat([chunk.mean(dim=1).square() for (chunk,) in chunks])


def mean_over_captures(captured: Tensor, values: Tensor) -> float:
    """Mean of a value of the nearest image over all noises: of the samples, each weighted by its captures.

    It is the mean over the samples where each captures equally many.

    Args:
        captured: (N,), from `hub_counts`.
        values: (N,), one a sample.

    Raises:
        ValueError: Shapes differ, or nothing was captured.
    """
    _check_one_each(captured, values)
    return float((captured * values.double()).sum() / captured.sum())


def capture_correlation(captured: Tensor, values: Tensor) -> float:
    """Spearman's rank correlation of captures with a value of the samples; 0 +- 1 / sqrt(N - 1) by chance.

    Args:
        captured: (N,), from `hub_counts`.
        values: (N,), one a sample.

    Returns:
        0 where all captures or all values are equal, as nothing sets hubs apart then.

    Raises:
        ValueError: Shapes differ, or nothing was captured.
    """
    from scipy.stats import rankdata

    _check_one_each(captured, values)
    ranks = torch.stack([torch.as_tensor(rankdata(part.cpu().numpy())).double() for part in (captured, values)])
    ranks -= ranks.mean(dim=1, keepdim=True)
    products = ranks @ ranks.T
    scale = math.sqrt(float(products[0, 0] * products[1, 1]))
    return float(products[0, 1]) / scale if scale > 0 else 0.0


def _check_one_each(captured: Tensor, values: Tensor) -> None:
    if captured.ndim != 1 or captured.shape != values.shape or not int(captured.sum()) > 0:
        raise ValueError(
            f"captured and values must be (N,) with something captured, got {tuple(captured.shape)} with "
            f"{int(captured.sum())} captures and {tuple(values.shape)}; use hub_counts"
        )
