"""How far latents are from white Gaussian noise, each number beside what white noise of the same size gives."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, centred_columns, check_at_least, float64_chunks

_LEVEL = 0.05
# scipy's Shapiro-Wilk p-values are approximated up to this size.
_SHAPIRO_LARGEST = 5000
_PATCH = 8
# Bands of the spectrum in cycles per pixel; half a cycle is the finest that a row of pixels can hold.
_LOW_UP_TO, _HIGH_FROM = 1 / 8, 1 / 4


class BesideNull(NamedTuple):
    """A measured value and its expectation for white Gaussian noise with the same N and shape."""

    value: float
    null: float


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """Mean distance and share of samples rejected at 5 %; `distances` (N,) float64, one a sample."""

    mean_distance: BesideNull
    rejected_share: BesideNull
    distances: Tensor


@dataclass(frozen=True)
class RadialPower:
    """`frequency` (R,) in cycles per pixel; `power` (R,) float64, mean over samples and channels, 1 for white noise.

    `low_to_high` is the mean power up to 1/8 over that from 1/4 cycles per pixel.
    """

    frequency: Tensor
    power: Tensor
    low_to_high: BesideNull


@dataclass(frozen=True)
class Normality:
    """What `latent_normality` measures; the functions of the same names say how."""

    mean: BesideNull
    std: BesideNull
    pixel_divergence: BesideNull
    ks_mean_distance: BesideNull
    ks_rejected_share: BesideNull
    shapiro_rejected_share: BesideNull
    squared_norm_per_value: BesideNull
    norm_outside_share: BesideNull
    low_to_high_power: BesideNull
    patch_correlation: BesideNull
    ks_distances: Tensor
    radial_power: RadialPower

    def scalars(self) -> dict[str, BesideNull]:
        """The numbers by name, without the arrays."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, BesideNull)}


def latent_normality(latents: Tensor, shapiro_samples: int = 1000) -> Normality:
    """All measures of this module over one set of latents.

    Args:
        latents: (N, C, H, W), N at least 2, H or W at least 2.
        shapiro_samples: Shapiro-Wilk tests so many of the first samples.

    Raises:
        ValueError: Another shape, or values not finite.
    """
    rows = _latent_rows(latents)
    total = rows.numel()
    kolmogorov, power = kolmogorov_smirnov(latents), radial_power(latents)
    per_value, outside = squared_norms(latents)
    return Normality(
        mean=BesideNull(_mean(rows), 0.0),
        std=BesideNull(_std(rows), _null_std(total)),
        pixel_divergence=pixel_divergence(latents),
        ks_mean_distance=kolmogorov.mean_distance,
        ks_rejected_share=kolmogorov.rejected_share,
        shapiro_rejected_share=shapiro_rejected_share(latents, shapiro_samples),
        squared_norm_per_value=per_value,
        norm_outside_share=outside,
        low_to_high_power=power.low_to_high,
        patch_correlation=patch_correlation(latents),
        ks_distances=kolmogorov.distances,
        radial_power=power,
    )


def _latent_rows(latents: Tensor) -> Tensor:
    rows = as_rows("latents", latents)
    if len(rows) < 2 or rows.shape[1] < 3:
        raise ValueError(
            f"latents must hold at least 2 samples of at least 3 values, got {len(rows)} of {rows.shape[1]}; pass more"
        )
    return rows


def _mean(rows: Tensor) -> float:
    return float(torch.stack([chunk.sum() for (chunk,) in float64_chunks(rows)]).sum()) / rows.numel()


def _std(rows: Tensor) -> float:
    mean = _mean(rows)
    squares = torch.stack([(chunk - mean).square().sum() for (chunk,) in float64_chunks(rows)]).sum()
    return math.sqrt(float(squares) / rows.numel())


def _null_std(total: int) -> float:
    """Expected standard deviation (dividing by the count) of `total` standard normals."""
    return math.sqrt(2 / total) * math.exp(math.lgamma(total / 2) - math.lgamma((total - 1) / 2))


def pixel_divergence(latents: Tensor) -> BesideNull:
    """Kullback-Leibler divergence of each pixel's moment-matched Gaussian from N(0, 1), mean over pixels, in nats.

    With a pixel's mean m and variance v (dividing by N - 1) over the N samples it is (v + m^2 - 1 - log v) / 2. For
    white noise (N - 1) v is chi-square, so that the expectation is
    (1 / N - digamma((N - 1) / 2) + log((N - 1) / 2)) / 2. A pixel that is the same in all samples makes it infinite.

    Raises:
        ValueError: As `latent_normality`.
    """
    rows = _latent_rows(latents)
    num = len(rows)
    mean = torch.stack([chunk.sum(dim=0) for (chunk,) in float64_chunks(rows)]).sum(dim=0) / num
    variance = torch.stack([(chunk - mean).square().sum(dim=0) for (chunk,) in float64_chunks(rows)]).sum(dim=0)
    variance /= num - 1
    divergence = (variance + mean.square() - 1 - variance.log()) / 2
    digamma = float(torch.digamma(torch.tensor((num - 1) / 2, dtype=torch.float64)))
    return BesideNull(float(divergence.mean()), (1 / num - digamma + math.log((num - 1) / 2)) / 2)


def kolmogorov_smirnov(latents: Tensor) -> KolmogorovSmirnov:
    """Kolmogorov-Smirnov distance of each sample's D values from N(0, 1), with the exact law of independent values.

    Raises:
        ValueError: As `latent_normality`.
    """
    from scipy.stats import kstwo

    rows = _latent_rows(latents)
    num_values = rows.shape[1]
    upper = torch.arange(1, num_values + 1, dtype=torch.float64, device=rows.device) / num_values
    chunks = []
    for (chunk,) in float64_chunks(rows):
        expected = torch.special.ndtr(chunk.sort(dim=1).values)
        above, below = (upper - expected).amax(dim=1), (expected - (upper - 1 / num_values)).amax(dim=1)
        chunks.append(torch.maximum(above, below))
    distances = torch.cat(chunks)
    rejected = float((distances > float(kstwo.isf(_LEVEL, num_values))).double().mean())
    mean = BesideNull(float(distances.mean()), _null_ks_distance(num_values))
    return KolmogorovSmirnov(mean, BesideNull(rejected, _LEVEL), distances)


@cache
def _null_ks_distance(num_values: int) -> float:
    from scipy.stats import kstwo

    return float(kstwo.mean(num_values))


def shapiro_rejected_share(latents: Tensor, max_samples: int = 1000) -> BesideNull:
    """Share of samples whose D values the Shapiro-Wilk test rejects as normal, of any mean and variance, at 5 %.

    The first `max_samples` samples are tested. Where D is over 5000, the limit of the test's p-values, the same 5000
    positions of each sample stand for all, drawn once without replacement from a fixed seed.

    Raises:
        ValueError: As `latent_normality`, or `max_samples` under 1.
    """
    from scipy.stats import shapiro

    check_at_least("max_samples", max_samples, 1)
    rows = _latent_rows(latents)[:max_samples]
    if rows.shape[1] > _SHAPIRO_LARGEST:
        order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))
        rows = rows[:, order[:_SHAPIRO_LARGEST].to(rows.device)]
    # The statistic is 0/0 for a sample of one value, which is as far from normal as a sample can be.
    varied = rows[rows.amin(dim=1) != rows.amax(dim=1)]
    if len(varied) == 0:
        return BesideNull(1.0, _LEVEL)
    p_values = torch.as_tensor(shapiro(varied.double().cpu().numpy(), axis=1).pvalue)
    rejected = int((p_values < _LEVEL).sum()) + len(rows) - len(varied)
    return BesideNull(rejected / len(rows), _LEVEL)


def squared_norms(latents: Tensor) -> tuple[BesideNull, BesideNull]:
    """Mean of |x|^2 / D, and share of samples with |x|^2 outside the central 95 % of chi-square with D degrees.

    Raises:
        ValueError: As `latent_normality`.
    """
    from scipy.stats import chi2

    rows = _latent_rows(latents)
    squares = torch.cat([chunk.square().sum(dim=1) for (chunk,) in float64_chunks(rows)])
    low, high = (float(chi2.ppf(p, rows.shape[1])) for p in (_LEVEL / 2, 1 - _LEVEL / 2))
    outside = float(((squares < low) | (squares > high)).double().mean())
    return BesideNull(float(squares.mean()) / rows.shape[1], 1.0), BesideNull(outside, _LEVEL)


def radial_power(latents: Tensor) -> RadialPower:
    """Mean squared modulus of the unitary 2-D Fourier transform, in rings one cycle per shorter side wide.

    White noise has power 1 everywhere. The band of M real degrees of freedom in the denominator of `low_to_high` is
    chi-square with M degrees, so that its expectation is M / (M - 2).

    Raises:
        ValueError: As `latent_normality`, or not (N, C, H, W).
    """
    rows = _latent_rows(latents)
    if latents.ndim != 4 or max(latents.shape[2:]) < 2:
        raise ValueError(
            f"latents must be (N, C, H, W) with H or W at least 2, got shape {tuple(latents.shape)}; a spectrum needs "
            "pixels in rows and columns"
        )
    height, width = latents.shape[2:]
    power = torch.zeros(height, width, dtype=torch.float64, device=latents.device)
    for (chunk,) in float64_chunks(rows):
        spectrum = torch.fft.fft2(chunk.reshape(-1, height, width), norm="ortho")
        power += (spectrum.real.square() + spectrum.imag.square()).sum(dim=0)
    count = len(rows) * latents.shape[1]
    power /= count
    radius = _radius(latents)
    side = min(height, width) if min(height, width) > 1 else max(height, width)
    ring = torch.floor(radius * side + 0.5).long()
    sizes = torch.bincount(ring.flatten())
    means = torch.bincount(ring.flatten(), weights=power.flatten()) / sizes.clamp(min=1)
    kept = (sizes > 0).nonzero().flatten()
    freedom = int((radius >= _HIGH_FROM).sum()) * count
    ratio = float(power[radius <= _LOW_UP_TO].mean() / power[radius >= _HIGH_FROM].mean())
    null = freedom / (freedom - 2) if freedom > 2 else math.inf
    return RadialPower(kept.double() / side, means[kept], BesideNull(ratio, null))


def band_powers(latents: Tensor) -> Tensor:
    """(2, N) mean power of each sample up to 1/8 and from 1/4 cycles per pixel, whose ratio is `low_to_high`."""
    radius = _radius(latents)
    bands = (radius <= _LOW_UP_TO, radius >= _HIGH_FROM)
    parts = []
    for (chunk,) in float64_chunks(as_rows("latents", latents)):
        spectrum = torch.fft.fft2(chunk.reshape(-1, *latents.shape[1:]), norm="ortho")
        power = (spectrum.real.square() + spectrum.imag.square()).mean(dim=1)
        parts.append(torch.stack([power[:, band].mean(dim=1) for band in bands]))
    return torch.cat(parts, dim=1)


def _radius(latents: Tensor) -> Tensor:
    """(H, W) distance from the origin of the frequencies of a 2-D Fourier transform, in cycles per pixel."""
    down, across = (torch.fft.fftfreq(n, dtype=torch.float64, device=latents.device) for n in latents.shape[2:])
    return torch.hypot(down[:, None], across[None, :])


def patch_correlation(latents: Tensor) -> BesideNull:
    """Mean absolute Pearson correlation over the samples between different pixels of an 8 x 8 patch, channels included.

    All patches of the image enter, those at the right and lower edge as large as they are. A pixel that is the same
    in all samples is left out. For independent normal pixels r^2 is Beta(1/2, (N - 2) / 2), so that the expected
    absolute value is gamma((N - 1) / 2) / (sqrt(pi) gamma(N / 2)): 0.0252 at N = 1000.

    Raises:
        ValueError: As `latent_normality`, not (N, C, H, W), or no two pixels of a patch that vary.
    """
    num = len(_latent_rows(latents))
    if latents.ndim != 4:
        raise ValueError(f"latents must be (N, C, H, W), got shape {tuple(latents.shape)}; reshape them")
    total, pairs = 0.0, 0
    for patch in patches(latents):
        columns = centred_columns(patch)
        columns = columns[:, columns.any(dim=0)]
        columns = columns / torch.linalg.vector_norm(columns, dim=0)
        sizes = (columns.T @ columns).abs_().clamp_(max=1.0)
        total += float(sizes.sum() - sizes.diagonal().sum())
        pairs += sizes.shape[0] * (sizes.shape[0] - 1)
    if pairs == 0:
        raise ValueError("latents must hold a patch with two pixels that vary over the samples, got none; pass others")
    return BesideNull(total / pairs, math.exp(math.lgamma((num - 1) / 2) - math.lgamma(num / 2)) / math.sqrt(math.pi))


def patches(latents: Tensor) -> Iterator[Tensor]:
    """(N, P) values of each patch of 8 x 8 pixels, channels included."""
    for band in torch.split(latents, _PATCH, dim=2):
        for patch in torch.split(band, _PATCH, dim=3):
            yield patch.flatten(1)
