"""The structure of a denoiser: against literal loops, on networks whose place is known, and for input that is none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.denoisers import GaussianDenoiser
from probediff.measures import (
    best_bandwidth,
    explained_share,
    explained_variance,
    isotropic_denoised,
    memorisation_gap,
    relative_distance,
    structure,
)
from probediff.measures.denoiser_structure import LevelImages
from probediff.schedule import NoiseSchedule
from tests.reference import structure_reference as literal

BANDWIDTHS = (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def family(num: int, size: int, seed: int = 0) -> Tensor:
    """Members (K, N, D) along a smooth bent way."""
    start, along, across = draw(3, num, size, seed=seed)
    return torch.stack([start + h * along + math.sin(2 * h) * across for h in BANDWIDTHS])


def level(num: int = 9, size: int = 5, seed: int = 0) -> LevelImages:
    truth, noised, null, network = (draw(num, size, seed=seed + k) for k in range(1, 5))
    return LevelImages(truth, noised, null, network, family(num, size, seed))


def pair(estimate: Any) -> tuple[float, float]:
    return estimate.value, estimate.error


def test_shares_and_distances_are_those_of_loops() -> None:
    a, b, c = draw(3, 7, 6)
    assert pair(explained_share(a, b, c)) == pytest.approx(literal.explained_share(*(x.numpy() for x in (a, b, c))))
    assert pair(explained_variance(a, b)) == pytest.approx(literal.explained_variance(a.numpy(), b.numpy()))
    found = relative_distance(a, b)
    assert found.value == pytest.approx(literal.relative_distance(a.numpy(), b.numpy()))

    def without(kept: list[int]) -> float:
        return literal.relative_distance(a[kept].numpy(), b[kept].numpy())

    # The error of a root by that of what is below it: the same but for terms of second order.
    assert found.error == pytest.approx(literal.jackknife(without, 7), rel=0.1)


def test_errors_are_the_spread_of_other_images() -> None:
    target, prediction, null = (draw(300, 40, 6, seed=k) for k in range(3))
    found = [explained_share(t, t + 0.5 * p, t + n) for t, p, n in zip(target, prediction, null, strict=True)]
    spread = torch.tensor([estimate.value for estimate in found]).std()
    assert torch.tensor([estimate.error for estimate in found]).mean() == pytest.approx(float(spread), rel=0.15)


def test_the_null_is_the_exact_denoiser_of_white_images() -> None:
    schedule, mean = NoiseSchedule.cosine(40), draw(5)
    denoiser, x_t = GaussianDenoiser(mean, 0.3 * torch.eye(5), schedule), draw(8, 5, seed=1)
    timestep = torch.full((8,), 20)
    a = float(schedule.alpha_bar[20])
    exact = (x_t - (1 - a) ** 0.5 * denoiser(x_t, timestep)) / a**0.5
    found = isotropic_denoised(x_t / a**0.5, ((1 - a) / a) ** 0.5, mean, 0.3)
    torch.testing.assert_close(found, exact)


def test_a_network_that_takes_no_noise_away_or_answers_with_the_mean_explains_nothing() -> None:
    truth, eps = 0.5 * draw(40, 30), draw(40, 30, seed=1)
    for sigma in (0.1, 1.0, 40.0):
        null = isotropic_denoised(truth + sigma * eps, sigma, torch.zeros(30), 0.25)
        for network in (truth + sigma * eps, torch.zeros(40, 30, dtype=torch.float64)):
            assert explained_share(truth, network, null).value < 0.03
        assert explained_share(truth, null, null).value == pytest.approx(0)


@pytest.mark.parametrize("k", range(len(BANDWIDTHS)))
def test_a_member_is_found_without_an_interval(k: int) -> None:
    members = family(12, 6)
    fit = best_bandwidth(members[k], members, BANDWIDTHS, draw(12, 6, seed=9))
    assert fit.is_identified and fit.bandwidth == pytest.approx(BANDWIDTHS[k])
    assert (fit.low, fit.high) == pytest.approx((BANDWIDTHS[k], BANDWIDTHS[k]))
    assert fit.explained.value == pytest.approx(1)


def test_between_members_the_spline_says_which_bandwidth() -> None:
    start, along, across = draw(3, 12, 6)
    for h in (0.1, 0.35, 0.5, 0.7, 0.9):
        network = start + h * along + math.sin(2 * h) * across
        fit = best_bandwidth(network, family(12, 6), BANDWIDTHS, draw(12, 6, seed=9))
        assert fit.bandwidth == pytest.approx(h, abs=0.006) and fit.low >= 0 and fit.high <= 1
        assert fit.low < h < fit.high < fit.low + 0.15


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.sampled_from([0.0, 0.1, 1.0, 5.0]))
def test_members_in_the_interval_are_those_of_loops(seed: int, num: int, noise: float) -> None:
    members = family(num, 4, seed)
    network = members[3] + noise * draw(num, 4, seed=seed + 1)
    fit = best_bandwidth(network, members, BANDWIDTHS, network + 100 * draw(num, 4, seed=seed + 2))
    best, near = literal.near_members(network.numpy(), members.numpy())
    distances = [float((network - member).square().sum()) for member in members]
    # The least over all bandwidths is not larger than that over the members.
    nearest = min(range(len(distances)), key=distances.__getitem__)
    assert nearest == best and best in near
    if fit.is_identified and BANDWIDTHS[best] == fit.bandwidth:
        assert {BANDWIDTHS[k] for k in near} <= {h for h in BANDWIDTHS if fit.low <= h <= fit.high}


def test_what_is_no_denoiser_has_no_bandwidth() -> None:
    members, null = family(30, 8), draw(30, 8, seed=5)
    fit = best_bandwidth(1000 * draw(30, 8, seed=6), members, BANDWIDTHS, null)
    assert not fit.is_identified and (fit.low, fit.high) == (0, 1)
    # Members that are all alike, as they are at high noise, are not told apart by one that is about as near to all.
    alike = draw(30, 8) + 1e-3 * draw(len(BANDWIDTHS), 30, 8, seed=7)
    fit = best_bandwidth(alike[0] + 0.3 * draw(30, 8, seed=8), alike, BANDWIDTHS, null)
    assert fit.explained.value > 0.5
    assert not fit.is_identified and (fit.low, fit.high) == (0, 1)


def test_the_gap_is_that_of_loops() -> None:
    seen, unseen = level(), level(11, seed=20)
    gap = memorisation_gap(seen, unseen)
    parts = [[x.numpy() for x in (of.truth, of.network, of.members[-1], of.null)] for of in (seen, unseen)]
    assert pair(gap.excess) == pytest.approx(literal.memorisation_excess(*parts))
    for index, name in ((1, "network"), (2, "gaussian")):
        shares = [literal.explained_share(part[0], part[index], part[3]) for part in parts]
        expected = shares[0][0] - shares[1][0], math.hypot(shares[0][1], shares[1][1])
        assert pair(getattr(gap, name)) == pytest.approx(expected)
    assert gap.excess.value == pytest.approx(gap.network.value - gap.gaussian.value)


def test_everything_of_a_level() -> None:
    images = level()
    found = structure(images, BANDWIDTHS)
    first, last = images.members[0], images.members[-1]
    a, b = images.network - images.noised, last - images.noised
    assert pair(found.score_gaussian) == pytest.approx(literal.explained_variance(a.numpy(), b.numpy()))
    assert pair(found.image_training_set) == pytest.approx(
        literal.explained_variance(images.network.numpy(), first.numpy())
    )
    assert found.linear_share == explained_share(images.network, last, images.null)
    others = [torch.cat([x[-1:], x[:-1]]) for x in (images.truth, images.null)]
    assert found.r2_null == explained_share(others[0], images.network, others[1]).value
    assert found.member_r2[0] == explained_share(first, images.network, images.null)
    assert found.member_distance[-1] == relative_distance(images.network, last)
    more = torch.tensor([literal.square(n, d) - literal.square(n, g) for n, d, g in
                         zip(images.network.numpy(), first.numpy(), last.numpy(), strict=True)])  # fmt: skip
    assert found.gaussian_lead == pytest.approx(float(more.mean() / more.std()) * 3)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.floats(0.01, 100), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 3))
def test_shares_do_not_depend_on_the_scale(scale: float, dtype: torch.dtype, seed: int) -> None:
    images = level(seed=seed)
    scaled = LevelImages(*(scale * getattr(images, name).to(dtype) for name in LevelImages.__dataclass_fields__))
    one, other = structure(images, BANDWIDTHS), structure(scaled, BANDWIDTHS)
    for name in ("r2", "linear_share", "distance", "score_gaussian", "image_training_set"):
        assert pair(getattr(one, name)) == pytest.approx(pair(getattr(other, name)), rel=1e-4, abs=1e-5)


def test_what_is_not_defined_is_no_number() -> None:
    images = draw(4, 3)
    assert math.isnan(explained_share(images, images, images).value)
    assert math.isnan(explained_share(images, draw(4, 3, seed=1), images).value)
    # A network in float32 that takes nothing away, but for rounding.
    still = level()
    still = replace(still, network=(still.noised * (1 + 1e-8 * draw(9, 5))))
    found = structure(still, BANDWIDTHS)
    assert math.isnan(found.score_gaussian.value) and math.isnan(found.score_training_set.error)
    assert math.isnan(explained_variance(torch.zeros(4, 3), images.float()).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explained_share(draw(3, 2), draw(4, 2), draw(3, 2)), "agree in number of samples"),
        (lambda: explained_share(*draw(3, 1, 2)), "at least 2 samples"),
        (lambda: explained_variance(draw(1, 2), draw(1, 2)), "at least 2 samples"),
        (lambda: relative_distance(draw(3, 2) / 0, draw(3, 2)), "must be finite"),
        (lambda: isotropic_denoised(draw(3, 2), -1.0, draw(2), 1.0), "sigma must be 0 or more"),
        (lambda: isotropic_denoised(draw(3, 2), 1.0, draw(2), 0.0), "variance above 0, got 1.0 and 0.0"),
        (lambda: best_bandwidth(draw(3, 2), draw(4, 3, 2), (0, 0.5, 0.4, 1), draw(3, 2)), "ascend from 0 to 1"),
        (lambda: best_bandwidth(draw(3, 2), draw(3, 3, 2), BANDWIDTHS, draw(3, 2)), "one a member and at least 4"),
        (lambda: best_bandwidth(draw(1, 2), draw(7, 1, 2), BANDWIDTHS, draw(1, 2)), "at least 2 samples"),
    ],
)
def test_what_has_no_structure_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
