"""Literal formulas of Kessy, Lewin & Strimmer (2018), table 1, and of P2's eq. 9, in numpy and scipy."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


def positive_diagonal(vectors: Array) -> Array:
    return vectors * np.where(np.diag(vectors) < 0, -1.0, 1.0)


def descending(matrix: Array) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1], positive_diagonal(vectors[:, ::-1])


def whitening_matrices(covariance: Array) -> dict[str, Array]:
    variance = np.diag(np.diag(covariance))
    root_inverse = np.linalg.inv(scipy.linalg.sqrtm(variance))
    correlation = root_inverse @ covariance @ root_inverse
    values, vectors = descending(covariance)
    cor_values, cor_vectors = descending(correlation)
    return {
        "zca": np.linalg.inv(scipy.linalg.sqrtm(covariance)),
        "zca_cor": np.linalg.inv(scipy.linalg.sqrtm(correlation)) @ root_inverse,
        "pca": np.diag(values**-0.5) @ vectors.T,
        "pca_cor": np.diag(cor_values**-0.5) @ cor_vectors.T @ root_inverse,
        "cholesky": scipy.linalg.cholesky(np.linalg.inv(covariance), lower=True).T,
    }


def w_diff(x: Array, z: Array) -> Array:
    """Z^T X (X^T X)^-T of the centred pairs."""
    x, z = x - x.mean(axis=0), z - z.mean(axis=0)
    return z.T @ x @ np.linalg.inv(x.T @ x).T
