"""A map from images to noises, seen along the eigenvectors of the images' covariance.

There every candidate for what the map does is a power of the eigenvalue s: s^(-1/2) for ZCA whitening, s^-1 for the
limit on Gaussian data of the iteration in P2 (*First-step inference in diffusion models learns image de-whitening*),
s^0 for the image itself; and R² of any of them costs O(D).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from probediff.measures.uncertainty import NUM_GROUPS, jackknife_errors
from probediff.measures.whitening import WhiteningTransform
from probediff.runs.record import STANDARD_ERRORS
from probediff.whitening.gains import GainSlope, gain_slope

Counts = Literal["iterations", "num_steps"]

#: A gain counts as known when it is so many standard errors above zero.
SIGNIFICANT_ERRORS = 3.0
_FEWEST_IMAGES = 3
#: Slopes are believed when the gains of this share of the directions are known.
TRUSTED_SHARE = 0.5


@dataclass(frozen=True)
class CurvePoint:
    """One point of the curves against the number of iterations or steps.

    A slope means nothing where ``significant_share`` is small: noises that have nothing to do with the images have
    gains of either sign and of the size of their error, which falls as eigenvalue^(-1/2), so that the positive ones
    look like ZCA. Where too few gains are positive there is none.

    Attributes:
        slope: weighted, of log gain against log eigenvalue.
        slope_standard_error: of it.
        slope_unweighted: with all directions alike.
        power_law_r2: of the unweighted line.
        significant_share: of the directions whose gain is positive by more than 3 standard errors.
        num_excluded_directions: whose gain is not positive.
        zca_r2: P2's R² of the ZCA-whitened image.
        zca_r2_scaled: the same at its best scale.
        inverse_r2_scaled: of S^-1 x.
        image_r2_scaled: of the image itself.
        noise_rms: root mean square of the noises.
    """

    slope: float | None
    slope_standard_error: float | None
    slope_unweighted: float | None
    power_law_r2: float | None
    significant_share: float
    num_excluded_directions: int | None
    zca_r2: float
    zca_r2_scaled: float
    inverse_r2_scaled: float
    image_r2_scaled: float
    noise_rms: float


@dataclass(frozen=True, eq=False)
class SpectralFit:
    """How z = f(x) follows x along each of the D eigenvectors u: the regression of u.z on u.x.

    Attributes:
        eigenvalues: (D,) of the images' covariance.
        variance: (D,) of u.x.
        gain: (D,).
        standard_error: (D,) of the gain.
        z_power: sum over the eigenvectors of the variance of u.z.
    """

    eigenvalues: Tensor
    variance: Tensor
    gain: Tensor
    standard_error: Tensor
    z_power: float

    @property
    def weights(self) -> Tensor:
        """(D,) inverse variance of log gain, for `gain_slope`; errors under 1e-6 of the gain count as 1e-6."""
        relative = self.standard_error / self.gain.abs()
        return relative.nan_to_num(nan=float("inf")).clamp(min=1e-6) ** -2

    def r2(self, power_gain: Tensor) -> float:
        """P2's R² of the map that multiplies by ``power_gain`` (D,), without any further scale."""
        with_z, own = self._products(power_gain)
        return (2 * with_z - own) / self.z_power if self.z_power > 0 else 0.0

    def r2_scaled(self, power_gain: Tensor) -> float:
        """The same with the best scalar before the map: judges its shape."""
        with_z, own = self._products(power_gain)
        return with_z**2 / (own * self.z_power) if own > 0 and self.z_power > 0 else 0.0

    def _products(self, power_gain: Tensor) -> tuple[float, float]:
        with_z = float((power_gain * self.gain.nan_to_num() * self.variance).sum())
        return with_z, float((power_gain.square() * self.variance).sum())

    def point(self, weights: Tensor | None = None) -> CurvePoint:
        """The numbers of the curves.

        Args:
            weights: (D,) of the slope; by default the inverse variances of the logarithms of the own gains.
        """
        weighted = self._slope(self.weights if weights is None else weights)
        plain = self._slope(None)
        known = self.gain > SIGNIFICANT_ERRORS * self.standard_error
        return CurvePoint(
            slope=None if weighted is None else weighted.slope,
            slope_standard_error=None if weighted is None else weighted.standard_error,
            slope_unweighted=None if plain is None else plain.slope,
            power_law_r2=None if plain is None else plain.r2,
            significant_share=float(known.double().mean()),
            num_excluded_directions=None if plain is None else plain.num_excluded,
            zca_r2=self.r2(self.eigenvalues**-0.5),
            zca_r2_scaled=self.r2_scaled(self.eigenvalues**-0.5),
            inverse_r2_scaled=self.r2_scaled(self.eigenvalues**-1.0),
            image_r2_scaled=self.r2_scaled(torch.ones_like(self.eigenvalues)),
            noise_rms=(self.z_power / len(self.eigenvalues)) ** 0.5,
        )

    def _slope(self, weights: Tensor | None) -> GainSlope | None:
        try:
            return gain_slope(self.eigenvalues, self.gain, weights)
        except ValueError:
            return None


def along_eigenvectors(images: Tensor, whitening: WhiteningTransform) -> Tensor:
    """(N, C, H, W) or (N, D) images, centred on their own mean, as (N, D) float64 coordinates along eigenvectors.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another size than the statistics have, or values not finite.
    """
    rows = whitening.checked_rows("images", images)
    return (rows - rows.mean(dim=0)) @ whitening.eigenvectors


def spectral_fit(along_x: Tensor, along_z: Tensor, eigenvalues: Tensor) -> SpectralFit:
    """The gains from x to z, (N, D) each, as `along_eigenvectors` returns them.

    Raises:
        ValueError: fewer than three images.
    """
    return _fit_of_sums(len(along_x), _products(along_x, along_z).sum(dim=1), eigenvalues)


def fits_without_groups(along_x: Tensor, along_z: Tensor, eigenvalues: Tensor) -> list[SpectralFit]:
    """`spectral_fit` without each group of images, for the delete-a-group jackknife; none with too few images."""
    num = len(along_x)
    if num - math.ceil(num / NUM_GROUPS) < _FEWEST_IMAGES:
        return []
    group = torch.arange(num, device=along_x.device) % NUM_GROUPS
    members = torch.nn.functional.one_hot(group).T.double()
    # Of the three products, and of x and z, which are centred on all images.
    parts = torch.stack([members @ part for part in (*_products(along_x, along_z), along_x, along_z)])
    left = num - members.sum(dim=1)
    x, z = -parts[3:]
    sums = parts[:3].sum(dim=1, keepdim=True) - parts[:3] - torch.stack([x * x, x * z, z * z]) / left[:, None]
    return [_fit_of_sums(int(count), of, eigenvalues) for count, of in zip(left, sums.unbind(dim=1), strict=True)]


def _products(along_x: Tensor, along_z: Tensor) -> Tensor:
    return torch.stack([along_x.square(), along_x * along_z, along_z.square()])


def _fit_of_sums(count: int, sums: Tensor, eigenvalues: Tensor) -> SpectralFit:
    """From the (3, D) sums of x², x z and z² over centred images."""
    if count < _FEWEST_IMAGES:
        raise ValueError(f"gains need at least 3 images for a standard error, got {count}; pass more images")
    squares_x, products, squares_z = sums
    gain = products / squares_x
    unexplained = (squares_z - gain * products).clamp(min=0)
    error = (unexplained / ((count - 2) * squares_x)).sqrt()
    return SpectralFit(eigenvalues, squares_x / (count - 1), gain, error, float(squares_z.sum()) / (count - 1))


@dataclass(frozen=True, eq=False)
class ComparedMap:
    """A map from images to noises by a model, beside that by the Gaussian denoiser of the same data.

    Attributes:
        counts: what ``count`` counts.
        count: iterations of P2's equation 7, or DDIM steps.
        gaussian: the Gaussian denoiser's.
        network: the network's; None where the Gaussian denoiser is the model.
        progress: of the network's iteration.
        left_out: the same without each group of images, for standard errors.
    """

    counts: Counts
    count: int
    gaussian: SpectralFit
    network: SpectralFit | None = None
    progress: dict[str, float] = field(default_factory=dict)
    left_out: "Sequence[ComparedMap]" = ()

    @classmethod
    def of(
        cls,
        counts: Counts,
        count: int,
        along: tuple[Tensor, Tensor | None],
        gain: Tensor,
        whitening: WhiteningTransform,
        **progress: float,
    ) -> "ComparedMap":
        """Fit both.

        Args:
            counts: what ``count`` counts.
            count: iterations or DDIM steps.
            along: (N, D) coordinates of images and of the model's noises, None where the Gaussian is the model.
            gain: (D,) of the Gaussian denoiser.
            whitening: the statistics.
            progress: of the network's iteration.
        """
        x, z = along
        eigenvalues = whitening.eigenvalues
        closed = spectral_fit(x, x * gain, eigenvalues), *fits_without_groups(x, x * gain, eigenvalues)
        network: Sequence[SpectralFit | None] = [None] * len(closed)
        if z is not None:
            network = spectral_fit(x, z, eigenvalues), *fits_without_groups(x, z, eigenvalues)
        whole, *without = (cls(counts, count, a, b, progress) for a, b in zip(closed, network, strict=True))
        return replace(whole, left_out=without)

    def errors(self) -> tuple[dict[str, float], dict[str, float]]:
        """Standard errors over images of the numbers of both points, by the delete-a-group jackknife."""
        pairs = [[_numbers(point) for point in map_.points()] for map_ in self.left_out]
        of_model, of_gaussian = zip(*pairs, strict=True) if pairs else ((), ())
        return jackknife_errors(of_model), jackknife_errors(of_gaussian)

    def points(self) -> tuple[CurvePoint, CurvePoint]:
        """Those of the model and of the Gaussian denoiser, whose slopes weigh the directions alike.

        A curve that is no straight line has the slope of the directions that weigh most.
        """
        return self.model.point(), self.gaussian.point(self.model.weights)

    @property
    def model(self) -> SpectralFit:
        """The network's, or the Gaussian denoiser's where that is the model."""
        return self.network or self.gaussian

    def record(self) -> dict[str, Any]:
        """Both points as plain types."""
        model, gaussian = (
            asdict(point) | ({STANDARD_ERRORS: errors} if errors else {})
            for point, errors in zip(self.points(), self.errors(), strict=True)
        )
        return {self.counts: self.count, "model": model | self.progress, "gaussian": gaussian}

    def arrays(self) -> dict[str, Tensor]:
        """The gains behind them."""
        name = f"{'iterations' if self.counts == 'iterations' else 'ddim'}_{self.count}"
        arrays = {f"gain_{name}": self.model.gain, f"gain_error_{name}": self.model.standard_error}
        return arrays if self.network is None else arrays | {f"gaussian_gain_{name}": self.gaussian.gain}


def _numbers(point: CurvePoint) -> dict[str, float]:
    """The numbers of a point, NaN where there is none."""
    return {name: math.nan if value is None else float(value) for name, value in asdict(point).items()}
