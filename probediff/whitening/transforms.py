"""W_diff beside the whitening transforms: fit, residual, whiteness and distances (P2, figure 5 and its table)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from probediff.measures.covariance import LinearFit, PairedMoments, linear_fit, paired_moments
from probediff.measures.whitening import (
    WHITENING_METHODS,
    Whitening,
    deviation_from_identity,
    least_squares_map,
    matrix_distance,
)
from probediff.whitening.closed_form import GaussianNoises

#: Beyond P2's own rows: the Gaussian denoiser after as many iterations, and the limit of its iteration.
GAUSSIAN, LIMIT = "gaussian", "gaussian_limit"
_BATCH = 1024


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare_transforms` found.

    Attributes:
        rows: one a transform, W_diff (``diff``) first.
        whiteness: how white W_diff leaves the images, as it is and scaled to a mean variance of 1.
        residual: of W_diff.
        whitened: (D, D) covariance of W_diff x.
        w_diff: (D, D).
    """

    rows: list[dict[str, Any]]
    whiteness: dict[str, float]
    residual: LinearFit
    whitened: Tensor
    w_diff: Tensor


def compare_transforms(images: Tensor, eps: Tensor, gaussian: GaussianNoises, timestep: int, count: int) -> Comparison:
    """W_diff of images and their noises, and how every transform compares with it.

    Args:
        images: (N, C, H, W); without a ridge more of them than values.
        eps: (N, C, H, W) their noises.
        gaussian: the Gaussian denoiser; its statistics give the transforms, their ridge that of W_diff.
        timestep: of the iteration.
        count: iterations behind ``eps``.

    Raises:
        ValueError: too few images, or noises that do not vary.
    """
    whitening = gaussian.whitening

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(images.split(_BATCH), eps.split(_BATCH), strict=True)

    pairs = paired_moments(batches())
    own = Whitening.from_covariance(pairs.x.mean, pairs.x.covariance, whitening.ridge)
    w_diff = least_squares_map(pairs, own)
    fits = {"diff": linear_fit(batches(), w_diff, pairs)}
    rows = [{"name": "diff", **_numbers(fits["diff"]), "r2_adjusted": _adjusted(fits["diff"], pairs)}]
    for name, matrix in _candidates(gaussian, timestep, count):
        fit, distance = linear_fit(batches(), matrix, pairs), matrix_distance(matrix, w_diff)
        cosine = float((matrix * w_diff).sum() / (matrix.norm() * w_diff.norm()))
        rows.append({"name": name, **_numbers(fit), **distance._asdict(), "cosine": cosine})
    whitened = w_diff @ pairs.x.covariance @ w_diff.T
    return Comparison(rows, _whiteness(whitened), fits["diff"], whitened, w_diff)


def _candidates(gaussian: GaussianNoises, timestep: int, count: int) -> Iterator[tuple[str, Tensor]]:
    """One matrix at a time: at D = 12,288 each takes 1.2 GB."""
    for method in WHITENING_METHODS:
        yield method, gaussian.whitening.matrix(method)
    yield GAUSSIAN, gaussian.matrix(gaussian.iteration_gain(timestep, count))
    yield LIMIT, gaussian.matrix(gaussian.iteration_gain(timestep, float("inf")))


def _numbers(fit: LinearFit) -> dict[str, float]:
    return {key: value for key, value in asdict(fit).items() if key in ("mse", "r2", "r2_scaled", "best_scale")}


def _adjusted(fit: LinearFit, pairs: PairedMoments) -> float | None:
    """R² with as many degrees of freedom taken off as W_diff has columns; None where none are left."""
    count, size = pairs.x.num_samples, len(pairs.x.mean)
    return 1 - (1 - fit.r2) * (count - 1) / (count - size - 1) if count > size + 1 else None


def _whiteness(whitened: Tensor) -> dict[str, float]:
    plain = deviation_from_identity(whitened)
    scaled = deviation_from_identity(whitened / max(plain.mean_variance, torch.finfo(torch.float64).tiny))
    return plain._asdict() | {f"scaled_{key}": value for key, value in scaled._asdict().items()}
