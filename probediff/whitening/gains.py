"""Gains of maps from images to noises: the closed form for Gaussian data, and which power of the covariance they show.

For data from N(mu, S) the iteration of `iterate_noise` from zero multiplies z_0 - mu along an eigenvector with
eigenvalue s by

    g_n = sqrt((1 - a) / a) (1 - rho^n) / s,     rho = (1 - a) / (a s + 1 - a),     a = alpha_bar(t).

Its limit is proportional to S^-1. P2 (*First-step inference in diffusion models learns image de-whitening*) compares it
with ZCA whitening, S^(-1/2); but at a high timestep rho is so near to 1 that the slope of log g_n against log s runs
through all values from 0 to -1 as n grows, and P2 does not say how many iterations it made. A small residual does not
mean a near limit either: the distance left is up to rho / (1 - rho) times the residual. So every result carries its
iteration count.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def gaussian_gain(eigenvalues: Tensor, alpha_bar: float, num_iterations: float = math.inf) -> Tensor:
    """g_n of the module's text for each eigenvalue, (D,) float64: what `iterate_noise` does to Gaussian data.

    Args:
        eigenvalues: (D,) of the covariance, 0 or more.
        alpha_bar: At the timestep, strictly between 0 and 1.
        num_iterations: n from a zero start; infinity is the limit, itself infinite at the eigenvalue 0.

    Raises:
        ValueError: Out of these ranges.
    """
    if not 0 < alpha_bar < 1 or not num_iterations >= 0 or bool((eigenvalues < 0).any()):
        raise ValueError(
            f"alpha_bar must be in (0, 1), num_iterations and eigenvalues 0 or more, got {alpha_bar}, "
            f"{num_iterations} and a smallest eigenvalue of {float(eigenvalues.min())}"
        )
    ratio = eigenvalues.double() * (alpha_bar / (1 - alpha_bar))
    limit = (alpha_bar / (1 - alpha_bar)) ** 0.5 / ratio
    if math.isinf(num_iterations):
        return limit
    # rho = 1 / (1 + ratio); expm1 and log1p keep the digits where rho is nearly 1.
    grown = -torch.expm1(-num_iterations * torch.log1p(ratio))
    return torch.where(ratio > 0, limit * grown, num_iterations * (alpha_bar / (1 - alpha_bar)) ** 0.5)


@dataclass(frozen=True)
class GainSlope:
    """The weighted regression log gain = intercept + slope log eigenvalue.

    Attributes:
        slope: -1/2 for ZCA whitening, -1 for the limit of P2's iteration on Gaussian data, 0 for a multiple of x.
        standard_error: Of the slope, from the scatter about the line; 0 for an exact power.
        r2: Weighted; 1 says that the gain is a power of the eigenvalue, less that it only has this mean slope.
        num_directions: Directions used.
        num_excluded: Directions left out because their gain, eigenvalue or weight is not positive.
    """

    slope: float
    standard_error: float
    r2: float
    num_directions: int
    num_excluded: int


def gain_slope(eigenvalues: Tensor, gain: Tensor, weights: Tensor | None = None) -> GainSlope:
    """Log-log slope of a map's gain against the covariance's eigenvalue, by weighted least squares.

    Args:
        eigenvalues: (D,).
        gain: (D,) of a map along the eigenvectors, such as `gaussian_gain` or `SpectralFit.gain`.
        weights: (D,) such as `SpectralFit.weights`; by default all 1.

    Raises:
        ValueError: Shapes that differ, or fewer than three directions to use.
    """
    weights = torch.ones_like(gain) if weights is None else weights
    if not eigenvalues.shape == gain.shape == weights.shape:
        shapes = ", ".join(str(tuple(v.shape)) for v in (eigenvalues, gain, weights))
        raise ValueError(f"eigenvalues, gain and weights must have one shape, got {shapes}")
    used = (eigenvalues > 0) & (gain > 0) & (weights > 0) & torch.isfinite(gain)
    if int(used.sum()) < 3 or eigenvalues[used].min() == eigenvalues[used].max():
        raise ValueError(
            f"gain must be positive in at least 3 directions of different eigenvalue, got {int(used.sum())} of "
            f"{gain.numel()}; pass more images, whose gains are less noisy"
        )
    x, y, w = eigenvalues[used].double().log(), gain[used].double().log(), weights[used].double()
    w = w / w.sum()
    x, y = x - (w * x).sum(), y - (w * y).sum()
    slope = float((w * x * y).sum() / (w * x * x).sum())
    total, left = float((w * y * y).sum()), float((w * (y - slope * x).square()).sum())
    error = math.sqrt(left / float((w * x * x).sum()) / (len(x) - 2))
    return GainSlope(slope, error, 1 - left / total if total > 0 else 1.0, len(x), int((~used).sum()))
