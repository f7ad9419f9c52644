"""W_diff beside the whitening transforms: fit, residual, whiteness and distances (P2, figure 5 and its table).

P2: *First-step inference in diffusion models learns image de-whitening*. W_diff is its equation 9.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probediff.measures.covariance import LinearFit, linear_fit, paired_moments
from probediff.measures.whitening import (
    WHITENING_METHODS,
    WhiteningTransform,
    least_squares_map,
)
from probediff.pictures import grid, to_uint8
from probediff.runs.record import STANDARD_ERRORS
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.transform_errors import LARGEST_SIZE, measure_distance, measure_whiteness, transform_errors

#: Values, of so many, whose covariances are kept and shown.
CORNER = 256
_BATCH = 1024
_SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class TransformComparison:
    """How linear maps of images compare with their noises and with W_diff.

    Attributes:
        rows: one a transform, W_diff (``diff``) first; beyond P2's own the Gaussian denoiser after as many iterations
            (``gaussian``), and the limit of its iteration (``gaussian_limit``).
        whiteness: how white W_diff leaves the images, as it is and scaled to a mean variance of 1.
        fit: of W_diff.
        covariance: (D, D) of W_diff x.
        w_diff: (D, D).
    """

    rows: list[dict[str, Any]]
    whiteness: dict[str, Any]
    fit: LinearFit
    covariance: Tensor
    w_diff: Tensor

    def record(self) -> dict[str, Any]:
        """The numbers as plain types."""
        shape = {n: getattr(self.fit, f"residual_{n}") for n in ("mean", "std", "skewness", "excess_kurtosis")}
        return {"transforms": self.rows, "whiteness": self.whiteness, "residual": shape}

    def arrays(self) -> dict[str, Tensor]:
        """W_diff, the histogram of its residuals, and the covariance of W_diff x."""
        return {
            "w_diff": self.w_diff.float(),
            "residual_histogram_edges": self.fit.histogram_edges,
            "residual_histogram_counts": self.fit.histogram_counts,
            "whitened_covariance_corner": self.covariance[:CORNER, :CORNER].float(),
        }

    def pictures(self) -> dict[str, Tensor]:
        """The covariance of W_diff x scaled to a mean variance of 1, and beside it its difference from the identity."""
        corner = self.covariance[:CORNER, :CORNER]
        scaled = corner / corner.diagonal().mean().clamp(min=_SMALLEST)
        difference = scaled - torch.eye(len(scaled)).to(scaled)
        return {"f5_whitened_covariance": grid(to_uint8(torch.stack([scaled, difference])[:, None]), 2)}


def compare_transforms(
    images: Tensor, eps: Tensor, gaussian: GaussianNoises, timestep: int, count: int
) -> TransformComparison:
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

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(images.split(_BATCH), eps.split(_BATCH), strict=True)

    pairs = paired_moments(batches())
    own = WhiteningTransform.from_covariance(pairs.x.mean, pairs.x.covariance, gaussian.whitening.ridge)
    w_diff = least_squares_map(pairs, own)
    fit = linear_fit(batches(), w_diff, pairs)
    # R² with as many degrees of freedom taken off as W_diff has columns; None where none are left.
    num, size = pairs.x.num_samples, len(pairs.x.mean)
    adjusted = 1 - (1 - fit.r2) * (num - 1) / (num - size - 1) if num > size + 1 else None
    rows = [{"name": "diff", **_numbers(fit), "r2_adjusted": adjusted}]
    kept: dict[str, Tensor] = {}
    for name, matrix in _candidates(gaussian, timestep, count):
        numbers = _numbers(linear_fit(batches(), matrix, pairs)) | measure_distance(matrix, w_diff)
        rows.append({"name": name, **numbers})
        kept |= {name: matrix} if size <= LARGEST_SIZE else {}
    covariance = w_diff @ pairs.x.covariance @ w_diff.T
    errors = transform_errors(images, eps, pairs, gaussian.whitening.ridge, kept)
    for row in rows:
        row[STANDARD_ERRORS] = row[STANDARD_ERRORS] | errors.get(row["name"], {})
    whiteness = measure_whiteness(covariance) | {STANDARD_ERRORS: errors.get("whiteness", {})}
    return TransformComparison(rows, whiteness, fit, covariance, w_diff)


def _candidates(gaussian: GaussianNoises, timestep: int, count: int) -> Iterator[tuple[str, Tensor]]:
    """One matrix at a time: at D = 12,288 each takes 1.2 GB."""
    for method in WHITENING_METHODS:
        yield method, gaussian.whitening.matrix(method)
    yield "gaussian", gaussian.matrix(gaussian.iteration_gain(timestep, count))
    yield "gaussian_limit", gaussian.matrix(gaussian.iteration_gain(timestep, float("inf")))


def _numbers(fit: LinearFit) -> dict[str, Any]:
    numbers = {name: getattr(fit, name) for name in ("mse", "r2", "r2_scaled", "best_scale")}
    return numbers | {STANDARD_ERRORS: fit.standard_errors}
