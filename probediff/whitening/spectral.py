"""A map from images to noises, seen along the eigenvectors of the images' covariance.

There every candidate for what the map does is a power of the eigenvalue s: s^(-1/2) for ZCA whitening, s^-1 for the
limit of P2's iteration on Gaussian data, s^0 for the image itself; and R² of any of them costs O(D).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.measures.covariance import DirectionalGains
from probediff.measures.whitening import Whitening
from probediff.whitening.gains import GainSlope, gain_slope

#: A gain counts as known when it is so many standard errors above zero.
SIGNIFICANT_ERRORS = 3.0
#: Slopes are believed when the gains of this share of the directions are known.
TRUSTED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class SpectralFit:
    """How z = f(x) follows x along each eigenvector.

    Attributes:
        gains: regression of z on x along each of the D eigenvectors.
        z_power: sum over them of the variance of z.
    """

    gains: DirectionalGains
    z_power: float

    def r2(self, power_gain: Tensor) -> float:
        """P2's R² of the map that multiplies by ``power_gain`` (D,), without any further scale."""
        with_z, own = self._products(power_gain)
        return (2 * with_z - own) / self.z_power if self.z_power > 0 else 0.0

    def r2_scaled(self, power_gain: Tensor) -> float:
        """The same with the best scalar before the map: judges its shape."""
        with_z, own = self._products(power_gain)
        return with_z**2 / (own * self.z_power) if own > 0 and self.z_power > 0 else 0.0

    def _products(self, power_gain: Tensor) -> tuple[float, float]:
        variance, gain = self.gains.variance, self.gains.gain.nan_to_num()
        return float((power_gain * gain * variance).sum()), float((power_gain.square() * variance).sum())


def along_eigenvectors(images: Tensor, whitening: Whitening) -> Tensor:
    """(N, C, H, W) or (N, D) images, centred on their own mean, as (N, D) float64 coordinates along eigenvectors.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another size than the statistics have, or values not finite.
    """
    rows = whitening.checked_rows("images", images)
    return (rows - rows.mean(dim=0)) @ whitening.eigenvectors


def spectral_fit(along_x: Tensor, along_z: Tensor) -> SpectralFit:
    """The gains from x to z, (N, D) each, as `along_eigenvectors` returns them.

    Raises:
        ValueError: fewer than three images.
    """
    count = len(along_x)
    if count < 3:
        raise ValueError(f"gains need at least 3 images for a standard error, got {count}; pass more images")
    squares_x, products = along_x.square().sum(dim=0), (along_x * along_z).sum(dim=0)
    squares_z = along_z.square().sum(dim=0)
    gain = products / squares_x
    unexplained = (squares_z - gain * products).clamp(min=0)
    error = (unexplained / ((count - 2) * squares_x)).sqrt()
    return SpectralFit(DirectionalGains(squares_x / (count - 1), gain, error), float(squares_z.sum()) / (count - 1))


def slope_or_none(eigenvalues: Tensor, gain: Tensor, weights: Tensor | None = None) -> GainSlope | None:
    """`gain_slope`, or None where too few gains are positive for one."""
    try:
        return gain_slope(eigenvalues, gain, weights)
    except ValueError:
        return None


def curve_point(fit: SpectralFit, whitening: Whitening, weights: Tensor | None = None) -> dict[str, float | int | None]:
    """One point of the curves of slope and R² against the number of iterations or steps.

    Args:
        fit: the map.
        whitening: whose eigenvectors it was seen along.
        weights: (D,) of the slope; by default the inverse variances of the logarithms of the map's own gains.

    Returns:
        Numbers by name. A slope means nothing where ``significant_share``, of the directions whose gain is positive by
        more than 3 standard errors, is small: noises that have nothing to do with the images have gains of either
        sign and of the size of their error, which falls as eigenvalue^(-1/2), so that the positive ones look like ZCA.
    """
    eigenvalues = whitening.eigenvalues
    weighted = slope_or_none(eigenvalues, fit.gains.gain, fit.gains.weights if weights is None else weights)
    plain = slope_or_none(eigenvalues, fit.gains.gain)
    known = fit.gains.gain > SIGNIFICANT_ERRORS * fit.gains.standard_error
    return {
        "slope": weighted and weighted.slope,
        "slope_standard_error": weighted and weighted.standard_error,
        "slope_unweighted": plain and plain.slope,
        "power_law_r2": plain and plain.r2,
        "significant_share": float(known.double().mean()),
        "num_excluded_directions": plain and plain.num_excluded,
        "zca_r2": fit.r2(eigenvalues**-0.5),
        "zca_r2_scaled": fit.r2_scaled(eigenvalues**-0.5),
        "inverse_r2_scaled": fit.r2_scaled(eigenvalues**-1.0),
        "image_r2_scaled": fit.r2_scaled(torch.ones_like(eigenvalues)),
        "noise_rms": (fit.z_power / len(eigenvalues)) ** 0.5,
    }


def compared(fit: SpectralFit, gaussian: SpectralFit, whitening: Whitening) -> dict[str, dict[str, float | int | None]]:
    """The points of a model and of the Gaussian denoiser, whose slopes weigh the directions alike.

    A curve that is no straight line has the slope of the directions that weigh most.
    """
    weights = fit.gains.weights
    return {"model": curve_point(fit, whitening, weights), "gaussian": curve_point(gaussian, whitening, weights)}
