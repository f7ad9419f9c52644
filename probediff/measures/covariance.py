"""What is streamed for the whitening analysis (P2, section 4): covariances, linear fits and gains, in float64.

Every function takes an iterable of batches and reads it once, so that neither all images nor anything of size N x N is
held. Batches of some hundred images are fast; larger ones are split. The D x D side is the one that is kept: a
whitening needs N > D, where the N x N Gram matrix would be the larger one.

P2 is *First-step inference in diffusion models learns image de-whitening*.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, check_num_samples, float64_chunks, same_length_rows
from probediff.measures.uncertainty import error_of_means

# Only tiles of the upper triangle are computed; of this side they keep the matrix product at full speed.
_TILE = 2048
_BINS = 120
_HISTOGRAM_STDS = 6.0
_SYMMETRY_TOLERANCE = 1e-5

Pairs = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of N samples.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, unbiased (divided by N - 1), exactly symmetric.
        num_samples: N.
    """

    mean: Tensor
    covariance: Tensor
    num_samples: int


@dataclass(frozen=True, eq=False)
class PairedMoments:
    """Second-order statistics of N pairs (x, z), such as images and their fixed points.

    Attributes:
        x: Moments of x, (D,) and (D, D).
        z_mean: (E,) float64.
        z_variance: (E,) float64, unbiased.
        cross_covariance: (D, E) float64, of x with z, unbiased.
    """

    x: Moments
    z_mean: Tensor
    z_variance: Tensor
    cross_covariance: Tensor


@dataclass(frozen=True, eq=False)
class LinearFit:
    """How well z - mean(z) is W (x - mean(x)), over N samples of E values.

    Attributes:
        mse: Mean squared residual over all values (P2, section 4.2).
        r2: 1 - mse / Var(z), Var(z) being the mean over the values of their variance over the samples (P2).
        r2_scaled: The same for c W with the best scalar c: judges the shape of W, whatever its scale.
        best_scale: That c.
        residual_mean: Mean residual; 0 to rounding where the means are those of the same pairs.
        residual_std: Its standard deviation over all values.
        residual_skewness: 0 for a normal distribution.
        residual_excess_kurtosis: 0 for a normal distribution.
        histogram_edges: (121,) float64, from -6 to 6 standard deviations of the first batch's residual.
        histogram_counts: (120,) float64 counts; what lies outside is counted in the outermost bins.
        standard_errors: Over samples, of the first four by name. W counts as given: that it was fitted to the same
            samples changes them in second order only, for at the best fit R² does not change with W in the first.
    """

    mse: float
    r2: float
    r2_scaled: float
    best_scale: float
    residual_mean: float
    residual_std: float
    residual_skewness: float
    residual_excess_kurtosis: float
    histogram_edges: Tensor
    histogram_counts: Tensor
    standard_errors: dict[str, float] = field(default_factory=dict)


class _CrossScatter:
    """Sum of (x - mean)(z - mean)^T, merged chunk by chunk (Chan, Golub & LeVeque 1983), so that no digits cancel."""

    def __init__(self, symmetric: bool) -> None:
        self.count = 0
        self._symmetric = symmetric

    def add(self, x: Tensor, z: Tensor) -> None:
        if self.count == 0:
            self.mean_x, self.mean_z = x.new_zeros(x.shape[1]), z.new_zeros(z.shape[1])
            self._scatter = x.new_zeros(x.shape[1], z.shape[1])
        mean_x, mean_z = x.mean(dim=0), z.mean(dim=0)
        self._add_product(x - mean_x, mean_x - self.mean_x, z - mean_z, mean_z - self.mean_z)
        total = self.count + len(x)
        self.mean_x += (mean_x - self.mean_x) * (len(x) / total)
        self.mean_z += (mean_z - self.mean_z) * (len(x) / total)
        self.count = total

    def _add_product(self, x: Tensor, shift_x: Tensor, z: Tensor, shift_z: Tensor) -> None:
        weight = self.count * len(x) / (self.count + len(x))
        for start in range(0, x.shape[1], _TILE):
            rows, columns = slice(start, start + _TILE), slice(start if self._symmetric else 0, None)
            tile = self._scatter[rows, columns]
            tile.addmm_(x[:, rows].T, z[:, columns])
            tile.addr_(shift_x[rows], shift_z[columns], alpha=weight)

    def covariance(self) -> Tensor:
        """(D, E), unbiased. Uses up the sum."""
        check_num_samples("batches", self.count, 2, "a covariance")
        covariance = self._scatter.div_(self.count - 1)
        for start in range(0, len(covariance) if self._symmetric else 0, _TILE):
            rows, after = slice(start, start + _TILE), slice(start + _TILE, None)
            covariance[rows, rows].copy_(covariance[rows, rows].triu() + covariance[rows, rows].triu(1).T)
            covariance[after, rows].copy_(covariance[rows, after].T)
        return covariance


def moments(batches: Iterable[Tensor]) -> Moments:
    """Mean and covariance of streamed images.

    Holds one (D, D) float64 matrix, 75 MB at D = 3072, 1.2 GB at 12,288. 20,000 images of 12,288 values took 4 minutes
    on two busy cores, with a peak of 2 GiB.

    Args:
        batches: (B, C, H, W) or (B, D) each, floating point.

    Raises:
        TypeError: A batch is no floating-point tensor.
        ValueError: Fewer than two samples, sizes that differ, or values not finite.
    """
    scatter = _CrossScatter(symmetric=True)
    for batch in batches:
        rows = as_rows("images", batch)
        _check_width("images", rows, scatter.mean_x if scatter.count else None)
        for (chunk,) in float64_chunks(rows, for_products=True):
            scatter.add(chunk, chunk)
    covariance = scatter.covariance()
    return Moments(scatter.mean_x, covariance, scatter.count)


def check_covariance(mean: Tensor, covariance: Tensor) -> Tensor:
    """The covariance in float64, checked.

    Args:
        mean: (D,).
        covariance: (D, D), symmetric up to 1e-5 of its largest entry.

    Raises:
        ValueError: Shapes that do not match, values not finite, or a covariance that is not symmetric.
    """
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or len(mean) == 0:
        raise ValueError(
            f"mean must be (D,) and covariance (D, D) with the same D >= 1, got {tuple(mean.shape)} and "
            f"{tuple(covariance.shape)}; flatten the images first"
        )
    matrix = covariance.detach().double()
    largest = float(torch.stack([matrix.amax(), -matrix.amin()]).max())
    # NaN in the extremes or in the mean shows in the sum, without a temporary of the size of the covariance.
    if not bool(torch.isfinite(largest + mean.sum())):
        raise ValueError("mean and covariance must be finite, got NaN or infinite entries; check the images")
    asymmetry = max(float((a - b).abs().max()) for a, b in zip(matrix.split(1024), matrix.T.split(1024), strict=True))
    if asymmetry > _SYMMETRY_TOLERANCE * largest:
        raise ValueError(
            f"covariance must be symmetric, got entries that differ from the transpose by up to {asymmetry:.3g}; "
            "pass (S + S.T) / 2 if that is rounding"
        )
    return matrix


def paired_moments(batches: Pairs) -> PairedMoments:
    """Moments of x, of z, and of x with z, from streamed pairs; all that P2's W_diff needs.

    Args:
        batches: Pairs of x (B, C, H, W) or (B, D) and z (B, ...), such as images and their fixed points.

    Raises:
        TypeError: A batch is no floating-point tensor.
        ValueError: Fewer than two pairs, sizes that differ, or values not finite.
    """
    own, cross = _CrossScatter(symmetric=True), _CrossScatter(symmetric=False)
    squares = torch.zeros(0, dtype=torch.float64)
    for x, z in _pair_chunks(batches):
        own.add(x, x)
        squares = squares if cross.count else z.new_zeros(z.shape[1])
        # Of the same form as the scatter's own update, for the diagonal only.
        weight = cross.count * len(z) / (cross.count + len(z))
        shift = z.mean(dim=0) - (cross.mean_z if cross.count else 0)
        squares += (z - z.mean(dim=0)).square().sum(dim=0) + weight * shift.square()
        cross.add(x, z)
    covariance = own.covariance()
    x_moments = Moments(own.mean_x, covariance, own.count)
    return PairedMoments(x_moments, cross.mean_z, squares / (own.count - 1), cross.covariance())


def linear_fit(batches: Pairs, matrix: Tensor, pairs: PairedMoments) -> LinearFit:
    """MSE, R² and residuals of z against a linear map of x, both centred (P2, figure 5).

    Args:
        batches: The pairs, as for `paired_moments`.
        matrix: (E, D), such as W_ZCA or W_diff; z is compared with (x - mean) @ matrix.T.
        pairs: Their moments; the means are used.

    Raises:
        TypeError: A batch is no floating-point tensor.
        ValueError: No pairs, sizes that do not match, a z that does not vary, or values not finite.
    """
    if matrix.shape != pairs.cross_covariance.T.shape:
        want = tuple(pairs.cross_covariance.T.shape)
        raise ValueError(f"matrix must be {want}, got {tuple(matrix.shape)}; its rows are those of z")
    weight = matrix.double().T
    powers, products = pairs.z_mean.new_zeros(4), list[Tensor]()
    counts, edges, num_values = pairs.z_mean.new_zeros(_BINS), pairs.z_mean.new_zeros(0), 0
    for x, z in _pair_chunks(batches, pairs):
        predicted, target = (x - pairs.x.mean) @ weight, z - pairs.z_mean
        residual = target - predicted
        powers += torch.stack([residual.pow(k).sum() for k in (1, 2, 3, 4)])
        products.append(torch.stack([part.sum(dim=1) for part in (predicted * target, predicted**2, target**2)]))
        edges = edges if num_values else _histogram_edges(residual)
        inner = torch.bucketize(residual.flatten(), edges[1:-1])
        counts += torch.bincount(inner, minlength=_BINS)
        num_values += residual.numel()
    of_samples = torch.cat(products, dim=1) if products else pairs.z_mean.new_zeros(3, 0)
    if num_values == 0 or float(of_samples[2].sum()) == 0:
        raise ValueError(f"batches must hold pairs whose z varies, got {num_values} values; pass more pairs")
    return _fit_from_sums(powers / num_values, of_samples * (of_samples.shape[1] / num_values), edges, counts)


def _fit_from_sums(powers: Tensor, products: Tensor, edges: Tensor, counts: Tensor) -> LinearFit:
    """From the mean of residual^k, k = 1..4, and for each sample that of predicted * z, predicted², z², (3, N)."""
    mean, second, third, fourth = powers.tolist()
    with_target, squared, total = products.mean(dim=1).tolist()
    of_means: dict[str, Callable[[Tensor], Tensor]] = {
        "mse": lambda m: m[2] - 2 * m[0] + m[1],
        "r2": lambda m: (2 * m[0] - m[1]) / m[2],
        "r2_scaled": lambda m: m[0].square() / (m[1] * m[2]),
        "best_scale": lambda m: m[0] / m[1],
    }
    errors = {name: error_of_means(function, *products) for name, function in of_means.items()}
    variance = max(second - mean**2, 0.0)
    skew = third - 3 * mean * second + 2 * mean**3
    tail = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    return LinearFit(
        mse=second,
        r2=1 - second / total,
        r2_scaled=with_target**2 / (squared * total) if squared > 0 else 0.0,
        best_scale=with_target / squared if squared > 0 else 0.0,
        residual_mean=mean,
        residual_std=variance**0.5,
        residual_skewness=skew / variance**1.5 if variance > 0 else 0.0,
        residual_excess_kurtosis=tail / variance**2 - 3 if variance > 0 else 0.0,
        histogram_edges=edges,
        histogram_counts=counts,
        standard_errors={name: error for name, error in errors.items() if not math.isnan(error)},
    )


def _histogram_edges(residual: Tensor) -> Tensor:
    reach = _HISTOGRAM_STDS * max(float(residual.square().mean().sqrt()), torch.finfo(torch.float64).tiny)
    return torch.linspace(-reach, reach, _BINS + 1, dtype=torch.float64, device=residual.device)


def _pair_chunks(batches: Pairs, pairs: PairedMoments | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Matching float64 chunks of each batch, flattened, of one width throughout: that of `pairs`."""
    first = (pairs.x.mean, pairs.z_mean) if pairs is not None else None
    for x, z in batches:
        rows_x, rows_z = same_length_rows(x=x, z=z)
        first = first or (rows_x[0], rows_z[0])
        _check_width("x", rows_x, first[0])
        _check_width("z", rows_z, first[1])
        yield from float64_chunks(rows_x, rows_z, for_products=True)


def _check_width(name: str, rows: Tensor, expected: Tensor | None) -> None:
    if expected is not None and rows.shape[1] != len(expected):
        raise ValueError(
            f"{name} must have {len(expected)} values in every batch, got {rows.shape[1]}; pass images of one size"
        )
