"""Do 95 % intervals cover the expectation? Those of 200 fresh sets, against the mean of 600 others.

They do between 90 and 98 % of the time; more often only by chance, where errors are not larger than the standard
deviation of the 800 values. What is known to be different is listed, in this one setting of noises and images:

- Hubs, and gaps that they or a few exchanged pairs make, are skewed: a set without a large hub has a low value and a
  small error as well. Intervals by factors, value * exp(+-2.093 error / value), would cover 5 to 10 % more.
- A few images of huge contrast make all correlations, and halves tell a fifth too little of that.
- What jumps when a sample is left out is taken for more uncertain than it is: pairs that are exchanged, and the lowest
  of many nearly equal places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from probediff.callbacks import assignment as assignment_probe
from probediff.callbacks import noise_image_map as map_probe
from probediff.measures import (
    angle_of_mean_cosine,
    assignment_accuracy,
    cka,
    closest_approach,
    cosine_similarity,
    explained_share,
    explained_variance,
    image_r2,
    latent_normality,
    optimal_transport,
    pixel_variance,
    plain_area_errors,
    relative_distance,
    squared_norm_per_value,
    ssim,
    svcca,
    top_k_correlation,
    triangle_angles,
    triangle_distances,
)
from probediff.measures.correlation import top_k_correlation_error
from probediff.measures.normality_errors import normality_errors
from probediff.measures.similarity_errors import cka_errors, svcca_error
from probediff.measures.trajectory import closest_approach_errors
from probediff.measures.transport import transports_without_groups
from probediff.measures.uncertainty import (
    ERRORS_IN_INTERVAL,
    WithError,
    error_of_means,
    jackknife_errors,
    mean_with_error,
    moments_with_errors,
    std_with_error,
)
from probediff.measures.whitening import WhiteningTransform
from probediff.whitening.spectral import ComparedMap, along_eigenvectors, spectral_fit
from tests.reference.fresh_sets import FreshSet, small_images

#: Sets whose intervals are counted, and others whose mean stands for the expectation.
COUNTED, OTHERS = 200, 600
NUM = 150
LAMBDAS = torch.linspace(0, 1, 51, dtype=torch.float64)
#: Where intervals cover less than 90 %, at least how often.
COVERED_LESS = {
    "largest_hub_share": 0.85,
    "image_hubness": 0.85,
    "nearest_noise_gap": 0.83,
    "identity_gap": 0.80,
    "heavy_tails": 0.85,
}
#: Where errors are more than 1.25 standard deviations on average, how many at most.
TOO_LARGE = {
    "identity_share": 1.7,
    "noise_hubness": 1.5,
    "closest_step_fraction": 2.3,
    "closest_lambda": 2.3,
}
Numbers = dict[str, float]
#: A set, and whether its errors are wanted -> values and errors.
Kind = Callable[[FreshSet, bool], tuple[Numbers, Numbers]]


def split(numbers: dict[str, WithError]) -> tuple[Numbers, Numbers]:
    return {name: n.value for name, n in numbers.items()}, {name: n.error for name, n in numbers.items()}


def means(s: FreshSet, _: bool) -> tuple[Numbers, Numbers]:
    """Means over samples, and functions of a few of them."""
    angle = triangle_angles(s.noise, s.x_0, s.latent).at_image_deg
    distance = triangle_distances(s.noise, s.x_0, s.latent).noise_latent
    sides = s.noise - s.x_0, s.latent - s.x_0
    error = error_of_means(lambda m: torch.rad2deg(m[0].acos()), cosine_similarity(*sides))
    mean, std = moments_with_errors(s.latent)
    return split(
        {
            "at_image_mean": mean_with_error(angle),
            "at_image_std": std_with_error(angle),
            "at_image_of_mean_cosine": WithError(angle_of_mean_cosine(*sides), error),
            "distance_noise_latent_mean": mean_with_error(distance),
            "latent_mean": mean,
            "latent_std": std,
            "saturated_share": mean_with_error((s.x_0.abs() >= 0.98).double().flatten(1).mean(dim=1)),
            "ssim_mean": mean_with_error(ssim(s.x_0, s.other)),
            "image_r2_mean": mean_with_error(image_r2(s.other, s.x_0)),
            "explained_share": explained_share(s.x_0, s.other, torch.zeros_like(s.x_0)),
            "explained_variance": explained_variance(s.x_0, s.other),
            "relative_distance": relative_distance(s.x_0, s.other),
        }
    )


def assignment(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    of_samples = {
        "pixel_variance": pixel_variance(s.x_0),
        "squared_norm_per_value": squared_norm_per_value(s.x_0),
    }
    event = SimpleNamespace(noise=s.noise, x_0=s.x_0)
    errors = assignment_probe._errors(event, of_samples) if with_errors else {}  # type: ignore[arg-type]
    return assignment_probe._numbers(assignment_accuracy(s.noise, s.x_0), of_samples), errors


def transport(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    without = transports_without_groups(s.noise, s.x_0) if with_errors else ()
    errors = jackknife_errors([map_probe._numbers(of_group) for of_group in without])
    return map_probe._numbers(optimal_transport(s.noise, s.x_0)), errors


def correlation(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    sets = {"white_noise": s.noise, "latents": s.latent, "images": s.x_0, "heavy_tails": s.heavy}
    errors = {name: top_k_correlation_error(images) for name, images in sets.items()} if with_errors else {}
    return {name: top_k_correlation(images) for name, images in sets.items()}, errors


def similarity(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    x, y = s.x_0, s.other
    values = {"cka": cka(x, y), "cka_debiased": cka(x, y, debiased=True), "svcca": svcca(x, y)}
    if not with_errors:
        return values, {}
    return values, dict(zip(values, (*cka_errors(x, y), svcca_error(x, y)), strict=True))


def normality(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    found = latent_normality(s.latent, 40)
    errors = normality_errors(s.latent, found, 40) if with_errors else {}
    return {name: number.value for name, number in found.scalars().items()}, errors


def plain(s: FreshSet, _: bool) -> tuple[Numbers, Numbers]:
    found = plain_area_errors(s.noise, s.x_0, s.latent, threshold=0.1)
    values = {name: value for name, value in vars(found).items() if name != "standard_errors"}
    return values, found.standard_errors


def trajectory(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    errors = closest_approach_errors(s.trajectory, LAMBDAS) if with_errors else {}
    return asdict(closest_approach(s.trajectory, LAMBDAS)), errors


@cache
def statistics() -> WhiteningTransform:
    """Those of many more images, as the probe has them."""
    rows = small_images(1, 4000)
    return WhiteningTransform.from_covariance(rows.mean(dim=0), torch.cov(rows.T))


def whitening(s: FreshSet, with_errors: bool) -> tuple[Numbers, Numbers]:
    images, noises = s.pairs
    along, eigenvalues = _along(images, noises), statistics().eigenvalues
    if not with_errors:
        return _known(asdict(spectral_fit(*along, eigenvalues).point())), {}
    compared = ComparedMap.of("iterations", 1, along, eigenvalues**-0.5, statistics())
    return _known(asdict(compared.points()[0])), compared.errors()[0]


def _along(images: torch.Tensor, noises: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return along_eigenvectors(images, statistics()), along_eigenvectors(noises, statistics())


def _known(numbers: dict[str, float | None]) -> Numbers:
    return {name: value for name, value in numbers.items() if value is not None}


SETS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (means, assignment, transport, correlation, similarity, normality, plain, trajectory, whitening)
}


def judge(name: str, coverage: float, ratio: float) -> bool:
    """Whether intervals cover as often, and errors are as large on average, as is said of them."""
    lowest, largest = COVERED_LESS.get(name, 0.9), TOO_LARGE.get(name, 1.25)
    # Lists that are out of date are no knowledge.
    is_listed_rightly = (name in COVERED_LESS) == (coverage < 0.9) and (name in TOO_LARGE) == (ratio > 1.25)
    is_long_by_chance = ratio <= 1.1 or name in TOO_LARGE
    return (
        is_listed_rightly and lowest <= coverage and (coverage <= 0.98 or is_long_by_chance) and 0.8 < ratio < largest
    )


def float64(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETS)
def test_intervals_cover_the_expectation(kind: str) -> None:
    counted = [SETS[kind](FreshSet(seed, NUM), True) for seed in range(COUNTED)]
    others = [SETS[kind](FreshSet(seed, NUM), False)[0] for seed in range(COUNTED, COUNTED + OTHERS)]
    wrong = {}
    for name in counted[0][1]:
        values = float64([numbers[name] for numbers, _ in counted])
        expected = float64([numbers[name] for numbers in others])
        errors = float64([errors.get(name, math.nan) for _, errors in counted])
        if bool(expected.isnan().all()):  # the place of the trajectory that is the latent's from then on
            continue
        spread = float(torch.cat([values, expected]).std())
        is_covered = (values - expected.mean()).abs() <= ERRORS_IN_INTERVAL * errors
        coverage = float(is_covered.double().mean())
        ratio = float(errors.mean()) / spread if spread > 0 else 1.0
        if not judge(name, coverage, ratio):
            wrong[name] = f"covered {coverage:.1%}, errors {ratio:.2f} of {spread:.3g}"
    assert not wrong
