"""The analytic denoisers as loops over pixels and images in numpy float64, and the habits of their authors' code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray
#: Images (M, C, H, W) that are summed up on their own, each batch with equal weight.
Batches = list[Array]


def softmax(exponents: Array) -> Array:
    weights = np.exp(exponents - exponents.max())
    return weights / weights.sum()


def optimal(x: Array, a: float, images: Array, num_neighbors: int | None = None) -> Array:
    """sum_i p_i x_i; of `num_neighbors` images that are nearest to x / sqrt(a) where it is given."""
    squares = ((x - np.sqrt(a) * images) ** 2).sum((1, 2, 3))
    kept = np.argsort(squares)[:num_neighbors]
    return np.tensordot(softmax(-squares[kept] / (2 * (1 - a))), images[kept], 1)


def nearest(x: Array, a: float, images: Array, is_scaled: bool = True) -> Array:
    """The image whose sqrt(a) x_i is nearest to x; x_i itself where the comparison is not scaled."""
    scale = np.sqrt(a) if is_scaled else 1.0
    return images[np.argmin(((x - scale * images) ** 2).sum((1, 2, 3)))]


def local_exponents(x: Array, a: float, images: Array, size: int) -> Array:
    """(M, H, W) exponents of patches at the same place."""
    squares = ((x - np.sqrt(a) * images) ** 2).sum(1)
    d, (height, width) = size // 2, squares.shape[1:]
    exponents = np.zeros_like(squares)
    for i in range(height):
        for j in range(width):
            patch = squares[:, max(0, i - d) : i + d + 1, max(0, j - d) : j + d + 1]
            exponents[:, i, j] = -patch.sum((1, 2)) / (2 * (1 - a))
    return exponents


def local(x: Array, a: float, images: Array, size: int) -> Array:
    """The local score machine."""
    exponents = local_exponents(x, a, images, size)
    result = np.zeros_like(x)
    for i, j in np.ndindex(*x.shape[1:]):
        result[:, i, j] = softmax(exponents[:, i, j]) @ images[:, :, i, j]
    return result


def _alike(place: int, length: int, d: int) -> list[int]:
    """Places whose patch of half width d is cut by the border as that at `place` is."""
    inside = range(d, length - d)
    return list(inside) if place in inside else [place]


def _patches(x: Array, images: Array, size: int, border: str) -> Iterator[tuple[int, int, Array, Array]]:
    """Row, column, the query's patch (C k k) around it, and the patches (S, C k k) that it is compared with."""
    d, (height, width) = size // 2, x.shape[1:]
    pad = ((0, 0), (d, d), (d, d))
    query = np.pad(x, pad, mode="wrap" if border == "circular" else "constant")
    padded = np.pad(images, ((0, 0), *pad))
    for i, j in np.ndindex(height, width):
        rows, columns = _alike(i, height, d), _alike(j, width, d)
        if border == "circular":
            rows, columns = list(range(d, height - d)), list(range(d, width - d))
        sources = [image[:, r : r + size, c : c + size].ravel() for image in padded for r in rows for c in columns]
        yield i, j, query[:, i : i + size, j : j + size].ravel(), np.stack(sources)


def equivariant(x: Array, a: float, batches: Batches, size: int, border: str) -> Array:
    """The equivariant local score machine; of several batches each counts alike, however many images it has."""
    result = np.zeros_like(x)
    for patches in zip(*(_patches(x, batch, size, border) for batch in batches), strict=True):
        i, j, query, _ = patches[0]
        sources = np.concatenate([part for *_, part in patches])
        prior = np.concatenate([np.full(len(part), -np.log(len(part))) for *_, part in patches])
        exponents = -((query - np.sqrt(a) * sources) ** 2).sum(1) / (2 * (1 - a)) + prior
        centres = sources.reshape(len(sources), len(x), -1)[:, :, size**2 // 2]
        result[:, i, j] = softmax(exponents) @ centres
    return result


def wiener_filter(a: float, images: Array, ddof: int) -> Array:
    """a S (a S + (1 - a) I)^-1, S with the divisor M - ddof."""
    covariance = np.cov(images.reshape(len(images), -1).T, ddof=ddof)
    return np.linalg.solve(a * covariance + (1 - a) * np.eye(len(covariance)), a * covariance)


def wiener(x: Array, a: float, images: Array, ddof: int = 1) -> Array:
    """m + S (a S + (1 - a) I)^-1 sqrt(a) (x - sqrt(a) m)."""
    mean = images.mean(0).ravel()
    return (mean + wiener_filter(a, images, ddof) @ (x.ravel() - np.sqrt(a) * mean) / np.sqrt(a)).reshape(x.shape)


def pca_mask(a: float, images: Array, threshold: float, ddof: int = 1, constant: float | None = None) -> Array:
    """(D, D): 1 where output p (columns) looks at the value q (rows); `constant` is what is 0 on L's diagonal."""
    weights = wiener_filter(a, images, ddof)
    smallest = 1e-6 * weights.diagonal().max() if constant is None else constant
    for q, own in enumerate(weights.diagonal().copy()):
        weights[q] /= own if own > smallest else 1.0
        if own <= smallest:
            weights[q] = 0
            weights[q, q] = 1
    return (np.abs(weights) >= threshold * np.abs(weights).max()).astype(float)


def pca_locality(x: Array, a: float, images: Array, mask: Array, batches: Batches | None = None) -> Array:
    """Every value by its own softmax; with `batches` the softmax is taken within each, and their means averaged."""
    parts = [images] if batches is None else batches
    means = []
    for part in parts:
        rows = part.reshape(len(part), -1)
        exponents = -((x.ravel() - np.sqrt(a) * rows) ** 2) @ mask / (2 * (1 - a))
        means.append([softmax(exponents[:, p]) @ rows[:, p] for p in range(rows.shape[1])])
    return np.mean(means, 0).reshape(x.shape)


#: (x, a, images, ddof) -> image of each kind; patches of the size given, or the threshold.
FORMULAS: dict[str, Callable[[Array, float, Array, int, Any], Array]] = {
    "wiener": lambda x, a, images, ddof, _: wiener(x, a, images, ddof),
    "optimal": lambda x, a, images, ddof, _: optimal(x, a, images),
    "nearest": lambda x, a, images, ddof, _: nearest(x, a, images),
    "local": lambda x, a, images, ddof, size: local(x, a, images, size),
    "circular": lambda x, a, images, ddof, size: equivariant(x, a, [images], size, "circular"),
    "zeros": lambda x, a, images, ddof, size: equivariant(x, a, [images], size, "zeros"),
    "pca_locality": lambda x, a, images, ddof, threshold: pca_locality(
        x, a, images, pca_mask(a, images, threshold, ddof)
    ),
}
