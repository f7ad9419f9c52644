"""Whether found noises could be white Gaussian noise: four checks, each with its law under N(0, I)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from scipy import stats
from torch import Tensor

from probediff.measures._rows import as_rows, float64_chunks

_SEED = 0
_NUM_SETS = 10_000
_NUM_DRAWN = 20_000
# Beyond so many noises the laws are normal enough not to change any more.
_MOST_IN_A_SET = 256


@dataclass(frozen=True, eq=False)
class NullTest:
    """One number of each noise beside its expectation and standard deviation for white Gaussian noise.

    Attributes:
        value: (N,) float64.
        null: Its expectation.
        null_std: Its standard deviation.
        draw: Number n -> (n,) z of white noises, the same ones every time; those of a spectrum are far from normal.
    """

    value: Tensor
    null: float
    null_std: float
    draw: Callable[[int], Tensor]

    @property
    def z(self) -> Tensor:
        """(N,) distance from the expectation in standard deviations."""
        return (self.value - self.null) / self.null_std

    @property
    def mean_z(self) -> float:
        """That of the mean over the N noises: white noises, when independent, give a standard normal number."""
        return float(self.z.sum()) / math.sqrt(len(self.value))

    @property
    def rms_z(self) -> float:
        """Root mean square of the z of single noises, about 1 for white ones: what a mean over noises can hide."""
        return float(self.z.square().mean().sqrt())

    def p_values(self) -> tuple[float, float]:
        """Two-sided, of `mean_z` and of `rms_z`, against 10,000 sets of as many white noises; not below 0.0002."""
        count = min(len(self.value), _MOST_IN_A_SET)
        z = self.draw(_NUM_DRAWN)
        z = (z - z.mean()) / z.std()
        chosen = torch.randint(len(z), (_NUM_SETS, count), generator=torch.Generator().manual_seed(_SEED))
        sets = z[chosen]
        # Squares about their expectation of 1, so that their sum over any number of noises has about one law.
        excess = (self.rms_z**2 - 1) * math.sqrt(len(self.value) / count) + 1
        return _two_sided(self.mean_z, sets.sum(dim=1) / count**0.5), _two_sided(excess, sets.square().mean(dim=1))


@dataclass(frozen=True, eq=False)
class InDistribution:
    """The four checks of `in_distribution`.

    Attributes:
        mean: Of the D values of a noise.
        variance: Of them, unbiased. For an image of the statistics' own law annealing lowers it, by up to 1/4.
        lag_1_correlation: Of neighbouring values in rows and columns.
        spectrum: Mean over rings of the squared, standardised excess of power; large for any colour.
        frequency: (R,) float64, middle of each ring in cycles per pixel.
        power: (R,) float64, mean power in it over noises and channels; 1 for white noise.
    """

    mean: NullTest
    variance: NullTest
    lag_1_correlation: NullTest
    spectrum: NullTest
    frequency: Tensor
    power: Tensor

    def checks(self) -> dict[str, NullTest]:
        """The checks by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, NullTest)}


def in_distribution(noise: Tensor) -> InDistribution:
    """Mean, variance, correlation of neighbours and radial spectrum of each noise, with their laws for white noise.

    The first three laws are exact but for the division of the correlation by the mean square (its standard deviation
    is 1 / sqrt(pairs) up to terms of 1 / D); that of the spectrum is exact, as the power of a ring is chi-square.

    Args:
        noise: (N, C, H, W), H and W at least 2, not constant.

    Raises:
        TypeError: No floating-point tensor.
        ValueError: Another shape, values not finite, or a noise that is zero.
    """
    rows = as_rows("noise", noise)
    if noise.ndim != 4 or min(noise.shape[2:]) < 2:
        raise ValueError(f"noise must be (N, C, H, W) with H and W at least 2, got shape {tuple(noise.shape)}")
    ring, sizes, frequency = _rings(*noise.shape[2:])
    chunks = (chunk.reshape(-1, *noise.shape[1:]) for (chunk,) in float64_chunks(rows))
    parts = [_one_chunk(chunk, ring.to(noise.device)) for chunk in chunks]
    mean, variance, correlation = torch.cat([part[0] for part in parts], dim=1)
    power = torch.cat([part[1] for part in parts]) / sizes.to(noise.device)
    if bool((rows.abs().amax(dim=1) == 0).any()):
        raise ValueError("noise must not be zero, got a noise whose values all are; leave it out")
    count, (height, width) = rows.shape[1], noise.shape[2:]
    variance_spread = math.sqrt(2 / (count - 1))
    pairs = noise.shape[1] * (height * (width - 1) + (height - 1) * width)
    freedom = (sizes * noise.shape[1]).to(power)
    excess = ((power - 1).square() * freedom / 2).mean(dim=1)
    spread = math.sqrt(float((2 + 12 / freedom).sum())) / len(freedom)

    def draw_variance(num: int) -> Tensor:
        return (_chi_square(torch.tensor([count - 1.0]), num)[:, 0] / (count - 1) - 1) / variance_spread

    def draw_spectrum(num: int) -> Tensor:
        of_rings = freedom.cpu()
        squares = (_chi_square(of_rings, num) - of_rings).square() / (2 * of_rings)
        return (squares.mean(dim=1) - 1) / spread

    return InDistribution(
        mean=NullTest(mean, 0.0, count**-0.5, _draw_normal),
        variance=NullTest(variance, 1.0, variance_spread, draw_variance),
        lag_1_correlation=NullTest(correlation, 0.0, pairs**-0.5, _draw_normal),
        spectrum=NullTest(excess, 1.0, spread, draw_spectrum),
        frequency=frequency,
        power=power.mean(dim=0),
    )


def _draw_normal(num: int) -> Tensor:
    return torch.randn(num, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)


def _chi_square(freedom: Tensor, num: int) -> Tensor:
    """(num, R) draws for R degrees of freedom."""
    return torch.as_tensor(stats.chi2.rvs(freedom.numpy(), size=(num, len(freedom)), random_state=_SEED))


def _two_sided(value: float, null: Tensor) -> float:
    smaller = min(int((null <= value).sum()), int((null >= value).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + len(null)))


def _one_chunk(noise: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
    """(3, n) mean, variance and correlation, and (n, R) power summed in rings, mean over channels, of noises."""
    flat = noise.flatten(1)
    across = (noise[..., 1:] * noise[..., :-1]).flatten(1)
    down = (noise[..., 1:, :] * noise[..., :-1, :]).flatten(1)
    products = torch.cat([across, down], dim=1).mean(dim=1)
    numbers = torch.stack([flat.mean(dim=1), flat.var(dim=1), products / flat.square().mean(dim=1)])
    power = torch.fft.fft2(noise, norm="ortho").abs().square().mean(dim=1).flatten(1)
    summed = power.new_zeros(len(power), int(ring.max()) + 1).index_add_(1, ring.flatten(), power)
    return numbers, summed


def _rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ring of each frequency (H, W), one cycle per image (of its shorter side) wide; sizes and frequencies (R,)."""
    down, across = (torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    radius = torch.hypot(down[:, None], across[None, :]) * min(height, width)
    cycles, ring = torch.floor(radius + 0.5).unique(return_inverse=True)
    return ring, torch.bincount(ring.flatten()), cycles / min(height, width)
