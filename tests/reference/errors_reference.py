"""Standard errors the long way: a statistic computed anew without each group of samples, and by halves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import hadamard

Statistics = Callable[[torch.Tensor], Mapping[str, float]]


def kept_by_group(num: int) -> list[list[int]]:
    """Samples without each of 20 groups, sample i being of group i modulo 20; without each of fewer samples."""
    return [[i for i in range(num) if i % 20 != group] for group in range(min(20, num))]


def jackknife_by_hand(values: list[float]) -> float:
    """sqrt((G - 1) / G sum (v - mean)²); NaN for fewer than two values, or where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values))


def errors_by_recomputing(statistics: Statistics, num: int) -> dict[str, float]:
    """The delete-a-group jackknife of each statistic of the samples that are kept, by name.

    NaN for all of them where the statistics refuse fewer samples.
    """
    try:
        without = [statistics(torch.tensor(kept)) for kept in kept_by_group(num)]
    except ValueError:
        return {}
    return {name: jackknife_by_hand([values[name] for values in without]) for name in without[0]}


def error_by_recomputing(statistic: Callable[[torch.Tensor], float], num: int) -> float:
    """The same of one statistic; NaN where it refuses fewer samples."""
    return errors_by_recomputing(lambda kept: {"it": statistic(kept)}, num).get("it", math.nan)


def halves_by_hand(num: int) -> Iterator[tuple[list[int], list[int]]]:
    """15 ways to halve the samples, sample i being of part i modulo 16: all rows of Hadamard's matrix but one."""
    for signs in hadamard(16)[1:]:
        yield [i for i in range(num) if signs[i % 16] < 0], [i for i in range(num) if signs[i % 16] > 0]


def top_k_error_by_halves(images: NDArray[np.float64], k: int) -> float:
    """Error of the mean of the k largest correlations from all pairs of pixels on halves, on Fisher's scale."""

    def value(rows: NDArray[np.float64]) -> float:
        # A pixel that is the same all over a half has no correlation there.
        with np.errstate(invalid="ignore", divide="ignore"):
            sizes = np.abs(np.corrcoef(rows[:, images.std(axis=0) > 0], rowvar=False))
        upper = np.nan_to_num(sizes[np.triu_indices(len(sizes), 1)])
        return min(float(np.sort(upper)[-k:].mean()), 1 - 1e-12)

    z = [[np.arctanh(value(images[half])) for half in halves] for halves in halves_by_hand(len(images))]
    return float((1 - value(images) ** 2) * np.sqrt(np.mean([(one - other) ** 2 for one, other in z]) / 4))
