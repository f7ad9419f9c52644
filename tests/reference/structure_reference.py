"""Literal numpy twins of the measures of a denoiser's structure: loops over images, no algebra."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def jackknife(statistic: Callable[[list[int]], float], count: int) -> float:
    """Standard error of a statistic of the kept indices, by leaving out one after the other."""
    everyone = list(range(count))
    values = [statistic([i for i in everyone if i != left_out]) for left_out in everyone]
    mean = sum(values) / count
    return float(((count - 1) / count * sum((value - mean) ** 2 for value in values)) ** 0.5)


def square(a: np.ndarray, b: np.ndarray) -> float:
    """Squared distance of two vectors."""
    return float(sum((p - q) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)))


def explained_share(target: np.ndarray, prediction: np.ndarray, null: np.ndarray) -> tuple[float, float]:
    """R² and its standard error."""

    def share(kept: list[int]) -> float:
        wrong = sum(square(target[i], prediction[i]) for i in kept)
        return 1 - wrong / sum(square(target[i], null[i]) for i in kept)

    return share(list(range(len(target)))), jackknife(share, len(target))


def relative_distance(prediction: np.ndarray, target: np.ndarray) -> float:
    """Relative L2."""
    wrong = sum(square(p, t) for p, t in zip(prediction, target, strict=True))
    return float((wrong / sum(square(t, 0 * t) for t in target)) ** 0.5)


def explained_variance(network: np.ndarray, model: np.ndarray) -> tuple[float, float]:
    """Mean over images, and its standard error."""
    shares = [1 - square(n, m) / square(n, 0 * n) for n, m in zip(network, model, strict=True)]
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / len(shares) ** 0.5)


def near_members(network: np.ndarray, members: np.ndarray) -> tuple[int, list[int]]:
    """Index of the nearest member, and of all that are not farther by more than two standard errors."""
    distances = np.array([[square(n, m) for n, m in zip(network, member, strict=True)] for member in members])
    best = int(distances.mean(axis=1).argmin())
    near = []
    for k, of_member in enumerate(distances):
        more = of_member - distances[best]
        if more.mean() <= 2 * more.std(ddof=1) / len(network) ** 0.5:
            near.append(k)
    return best, near


def memorisation_excess(seen: list[np.ndarray], unseen: list[np.ndarray]) -> tuple[float, float]:
    """Gap of (truth, network, Gaussian, null) images beyond the Gaussian's, and its standard error."""
    (one, its_error), (other, other_error) = _excess(*seen), _excess(*unseen)
    return one - other, (its_error**2 + other_error**2) ** 0.5


def _excess(truth: np.ndarray, network: np.ndarray, gaussian: np.ndarray, null: np.ndarray) -> tuple[float, float]:
    def excess(kept: list[int]) -> float:
        better = sum(square(truth[i], gaussian[i]) - square(truth[i], network[i]) for i in kept)
        return better / sum(square(truth[i], null[i]) for i in kept)

    return excess(list(range(len(truth)))), jackknife(excess, len(truth))
