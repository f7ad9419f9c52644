"""Slow, literal transcriptions of the measures of latents and maps, in numpy, scipy and plain Python, as oracles."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def heat_map_by_loops(noise: Array, latent: Array, states: Array, lambdas: Array) -> Array:
    """(S, L) mean over samples of |x_t - ((1 - lambda) x_T + lambda latent)|; states (S, N, D), one norm at a time."""
    result = np.zeros((len(states), len(lambdas)))
    for t, state in enumerate(states):
        for k, place in enumerate(lambdas):
            for i in range(len(noise)):
                point = (1 - place) * noise[i] + place * latent[i]
                result[t, k] += math.sqrt(float(((state[i] - point) ** 2).sum())) / len(noise)
    return result


def plain_by_loops(images: Array, threshold: float, open_border: bool) -> NDArray[np.bool_]:
    """Plain pixels, (N, H, W); beyond the border the difference is 0 (`open_border`) or that to the other side."""
    num, channels, height, width = images.shape
    plain = np.ones((num, height, width), dtype=bool)
    for n, c, i, j in itertools.product(range(num), range(channels), range(height), range(width)):
        image = images[n, c]
        below, right = min(i + 1, height - 1), min(j + 1, width - 1)
        down = abs(image[below, j] - image[below - 1, j])
        across = abs(image[i, right] - image[i, right - 1])
        if open_border:
            down, across = down * (i + 1 < height), across * (j + 1 < width)
        plain[n, i, j] &= bool((down + across) / 2 < threshold)
    return plain


def pixel_divergence_by_loops(latents: Array) -> float:
    """KL(N(m, v) | N(0, 1)) of every column by numerical integration over twelve standard deviations."""
    total = 0.0
    for column in latents.T:
        p, q = stats.norm(column.mean(), column.std(ddof=1)), stats.norm()
        x = np.linspace(column.mean() - 12 * column.std(ddof=1), column.mean() + 12 * column.std(ddof=1), 4001)
        total += float(np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x))
    return total / latents.shape[1]


def radial_power_by_loops(images: Array) -> dict[int, float]:
    """Mean power by ring: rounded frequency in cycles per shorter side; the Fourier sum written out."""
    height, width = images.shape[2:]
    side = min(height, width)
    rings: dict[int, list[float]] = {}
    for u, v in itertools.product(range(height), range(width)):
        rows, columns = np.exp(-2j * math.pi * u * np.arange(height) / height), np.arange(width)
        wave = np.outer(rows, np.exp(-2j * math.pi * v * columns / width))
        power = np.abs((images * wave).sum(axis=(2, 3))) ** 2 / (height * width)
        down = min(u, height - u) / height
        across = min(v, width - v) / width
        rings.setdefault(math.floor(math.hypot(down, across) * side + 0.5), []).append(float(power.mean()))
    return {ring: float(np.mean(powers)) for ring, powers in rings.items()}


def patch_correlation_by_loops(images: Array, patch: int = 8) -> float:
    """Mean absolute correlation of different values in a patch, one pair at a time."""
    found = []
    for top, left in itertools.product(range(0, images.shape[2], patch), range(0, images.shape[3], patch)):
        columns = images[:, :, top : top + patch, left : left + patch].reshape(len(images), -1).T
        found += [abs(stats.pearsonr(a, b)[0]) for a, b in itertools.combinations(columns, 2)]
    return float(np.mean(found))


def slerp_by_hand(a: Array, b: Array, weight: float) -> Array:
    """One pair of vectors: turn a towards b within their plane, and change the length on the way as slerp does."""
    angle = math.acos(float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
    return (math.sin((1 - weight) * angle) * a + math.sin(weight * angle) * b) / math.sin(angle)


def best_permutation(cost: Array) -> tuple[tuple[int, ...], float]:
    """The cheapest of all N! assignments and its mean cost."""
    rows = range(len(cost))
    best = min(itertools.permutations(rows), key=lambda order: sum(cost[i, order[i]] for i in rows))
    return best, float(np.mean([cost[i, best[i]] for i in rows]))


def floored_triangle(latent: Array, image: Array, noise: Array) -> tuple[tuple[int, int, int], float]:
    """The authors' triple loop over `np.histogram(bins=range(1, 180))`, first maximum; (latent, image, noise)."""
    hists = [np.histogram(angles, bins=range(1, 180))[0] for angles in (latent, image, noise)]
    hist_a, hist_b, hist_c = (hist / hist.sum() for hist in hists)
    best, most = (0, 0, 0), 0.0
    for a, b in itertools.product(range(1, 179), repeat=2):
        c = 180 - a - b
        if 1 <= c <= 178 and hist_a[a - 1] * hist_b[b - 1] * hist_c[c - 1] > most:
            best, most = (a, b, c), float(hist_a[a - 1] * hist_b[b - 1] * hist_c[c - 1])
    return best, most


def hsic(k: Array, l_: Array, unbiased: bool) -> float:
    """As in the platonic-rep code, without its factors left out."""
    m = len(k)
    if not unbiased:
        h = np.eye(m) - 1 / m
        return float(np.trace(k @ h @ l_ @ h))
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    value = (k * l_.T).sum() + k.sum() * l_.sum() / ((m - 1) * (m - 2)) - 2 * (k @ l_).sum() / (m - 2)
    return float(value / (m * (m - 3)))


def platonic_cka(x: Array, y: Array, unbiased: bool) -> float:
    """CKA with 1e-6 in the denominator."""
    k, l_ = x @ x.T, y @ y.T
    return hsic(k, l_, unbiased) / (math.sqrt(hsic(k, k, unbiased) * hsic(l_, l_, unbiased)) + 1e-6)


def frechet_distance(real: Array, fake: Array) -> float:
    """|m - n|^2 + tr(S) + tr(T) - 2 tr((S^1/2 T S^1/2)^1/2), by symmetric eigenvalue decompositions."""
    s, t = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ t @ root), 0, None)).sum()
    return float(((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross)
