"""Slow, literal transcriptions of the measures, in numpy and plain Python, as oracles for probediff.measures."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def angle_by_acos_deg(vertex: Array, a: Array, b: Array) -> float:
    """Angle at `vertex` between the directions to a and b, from the cosine (inaccurate near 0 and 180 degrees)."""
    u, v = a - vertex, b - vertex
    cosine = float(u @ v) / math.sqrt(float(u @ u) * float(v @ v))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def triangle_angles_by_acos(noise: Array, x_0: Array, latent: Array) -> Array:
    """(3, N): angles at noise, image and latent, one sample at a time."""
    rows = [
        (angle_by_acos_deg(n, x, z), angle_by_acos_deg(x, n, z), angle_by_acos_deg(z, n, x))
        for n, x, z in zip(noise, x_0, latent, strict=True)
    ]
    return np.array(rows).T


def best_triangle_probability(angles_deg: Array) -> tuple[float, list[tuple[int, int, int]]]:
    """The largest product of the three histograms of (3, N) angles, and every triangle that reaches it."""
    num = angles_deg.shape[1]
    counts = [[sum(1 for a in row if degree - 0.5 <= a < degree + 0.5) for degree in range(181)] for row in angles_deg]
    best = 0
    winners: list[tuple[int, int, int]] = []
    for a, b in itertools.product(range(181), repeat=2):
        c = 180 - a - b
        if c < 0:
            continue
        product = counts[0][a] * counts[1][b] * counts[2][c]
        if product > best:
            best, winners = product, []
        if product == best and product > 0:
            winners.append((a, b, c))
    return best / num**3, winners


def nearest_by_loops(queries: Array, candidates: Array, k: int) -> list[list[int]]:
    """For each query its k nearest candidates by squared L2, nearest first, the lower index first where equal."""
    result = []
    for query in queries:
        ranked = sorted((float(((query - candidate) ** 2).sum()), j) for j, candidate in enumerate(candidates))
        result.append([j for _, j in ranked[:k]])
    return result


def accuracy_by_loops(nearest: list[list[int]]) -> float:
    """Fraction of queries that find their own index in their list."""
    return sum(1 for i, found in enumerate(nearest) if i in found) / len(nearest)


def top_k_by_matrix(images: Array, k: int) -> float:
    """Mean of the k largest absolute entries above the diagonal of numpy's D x D correlation matrix."""
    matrix = np.abs(np.corrcoef(images, rowvar=False))
    upper = matrix[np.triu_indices(matrix.shape[0], 1)]
    return float(np.sort(upper)[-k:].mean())


def hsic_biased_literal(k: Array, l_: Array) -> float:
    """trace(K H L H), H = I - 11^T / N (Gretton et al. 2005, up to the factor (N - 1)^-2)."""
    num = len(k)
    h = np.eye(num) - np.full((num, num), 1 / num)
    return float(np.trace(k @ h @ l_ @ h))


def hsic_unbiased_literal(k: Array, l_: Array) -> float:
    """Song et al. 2012, eq. 5, term by term."""
    m = len(k)
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    ones = np.ones(m)
    total = np.trace(k @ l_)
    total += (ones @ k @ ones) * (ones @ l_ @ ones) / ((m - 1) * (m - 2))
    total -= 2 / (m - 2) * (ones @ k @ l_ @ ones)
    return float(total / (m * (m - 3)))


def cka_literal(x: Array, y: Array, debiased: bool) -> float:
    """CKA from N x N Gram matrices of features that are not centred."""
    hsic = hsic_unbiased_literal if debiased else hsic_biased_literal
    k, l_ = x @ x.T, y @ y.T
    return hsic(k, l_) / math.sqrt(hsic(k, k) * hsic(l_, l_))


def leading_left_vectors(x: Array, num_directions: int) -> Array:
    """Leading left singular vectors of the standardised columns, by a full SVD."""
    spread = x.std(axis=0, ddof=1)
    standardised = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.linalg.svd(standardised, full_matrices=False)[0][:, :num_directions]


def simulated_top_k(num_images: int, num_pixels: int, k: int, repeats: int, seed: int) -> tuple[float, float]:
    """Mean and standard error over `repeats` of the top-k correlation of independent normal pixels."""
    rng = np.random.default_rng(seed)
    values = [top_k_by_matrix(rng.standard_normal((num_images, num_pixels)), k) for _ in range(repeats)]
    return float(np.mean(values)), float(stats.sem(values))
