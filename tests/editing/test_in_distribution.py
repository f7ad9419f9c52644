"""Are found noises white? The four checks against numpy and simulation, and the sentence that sums them up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.editing.noise_search import NoiseSearchSettings, search_noise
from probediff.editing.noises import distribution_checks, distribution_table, sidak_level
from probediff.measures.in_distribution import in_distribution
from tests.editing.test_noise_search import SHAPE, statistics
from tests.reference.golden_inputs import hashed_normal


def white(num: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    return hashed_normal("white", (num, channels, height, width))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 9), (2, 2, 2)])
def test_the_nulls_are_what_white_noise_gives(shape: tuple[int, int, int]) -> None:
    num = 4000
    checks = in_distribution(white(num, *shape)).checks()
    for name, check in checks.items():
        assert abs(check.mean_z) < 4, name
        # The division by the mean square takes terms of 1 / D off the spread of the correlation, and the long tail of
        # the spectrum's statistic makes the spread of 4000 of them uncertain.
        slack = {"lag_1_correlation": 0.06 + 2 / math.prod(shape), "spectrum": 0.15}.get(name, 0.06)
        assert float(check.z.std()) == pytest.approx(1, abs=slack), name


def test_each_number_is_numpys() -> None:
    noise = white(3, 2, 5, 7)
    found = in_distribution(noise)
    for index, image in enumerate(noise.numpy()):
        assert float(found.mean.value[index]) == pytest.approx(image.mean(), abs=1e-14)
        assert float(found.variance.value[index]) == pytest.approx(image.var(ddof=1), rel=1e-12)
        right, down = image[:, :, 1:] * image[:, :, :-1], image[:, 1:] * image[:, :-1]
        products = np.concatenate([right.ravel(), down.ravel()])
        assert float(found.lag_1_correlation.value[index]) == pytest.approx(products.mean() / (image**2).mean())
    rings: dict[int, list[float]] = {}
    power = (np.abs(np.fft.fft2(noise.numpy())) ** 2 / 35).mean(axis=(0, 1))
    for i, row in enumerate(np.fft.fftfreq(5)):
        for j, column in enumerate(np.fft.fftfreq(7)):
            rings.setdefault(math.floor(math.hypot(row, column) * 5 + 0.5), []).append(power[i, j])
    np.testing.assert_allclose(found.frequency, [ring / 5 for ring in sorted(rings)])
    np.testing.assert_allclose(found.power, [np.mean(rings[ring]) for ring in sorted(rings)], rtol=1e-12)


def test_each_fault_is_seen_by_its_check() -> None:
    noise = white(20, 3, 16, 16)
    smooth = noise + 0.3 * noise.roll(1, -1)
    assert in_distribution(noise + 0.2).mean.mean_z > 10
    assert in_distribution(0.95 * noise).variance.mean_z < -5
    assert in_distribution(smooth / smooth.std()).lag_1_correlation.mean_z > 10
    assert in_distribution(smooth / smooth.std()).spectrum.mean_z > 10
    assert all(abs(check.mean_z) < 4 for check in in_distribution(noise).checks().values())


def test_a_low_temperature_leaves_the_distribution_and_a_high_one_does_not() -> None:
    whitening = statistics()
    x_0 = whitening.dewhiten(hashed_normal("own law", (1, *SHAPE)))
    cold = search_noise(x_0, whitening, NoiseSearchSettings("backward", 2000, 2.0, 2.0, 0.9, num_chains=32))
    warm = search_noise(x_0, whitening, NoiseSearchSettings("backward", 50, 1e6, 1e6, 0.9, num_chains=32))
    assert in_distribution(cold.noise[0]).variance.mean_z < -4
    assert abs(in_distribution(warm.noise[0]).lag_1_correlation.mean_z) < 4


def test_the_check_refuses_what_is_no_noise() -> None:
    with pytest.raises(ValueError, match="H and W at least 2"):
        in_distribution(torch.randn(3, 48, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="noise must not be zero"):
        in_distribution(torch.cat([white(1), torch.zeros(1, 3, 8, 8)]))


# --- the sentence


def test_the_printed_check_says_what_it_found() -> None:
    good = hashed_normal("noise", (200, 2, 1, 8, 8)).float()
    rows = distribution_checks(good)
    assert [row["check"] for row in rows] == ["mean", "variance", "lag_1_correlation", "spectrum"]
    assert all(0.8 < row["z_of_one_noise"] < 1.25 for row in rows)
    assert "Nothing here tells the noises from white Gaussian noise: all 8 p are 0.0013 or" in distribution_table(rows)
    words = distribution_table(distribution_checks(0.8 * good))
    assert "not white Gaussian noise by: mean, variance, spectrum (p < 0.0013" in words
    assert "  0.63" in words or "  0.64" in words


def test_a_spectrum_far_from_its_null_is_told() -> None:
    """At 3.94 standard deviations the sentence said that nothing was there."""
    noise = hashed_normal("noise", (40, 1, 3, 32, 32))
    strengths = torch.linspace(0.045, 0.055, 21)
    coloured = [noise + strength * noise.roll(1, -1) for strength in strengths]
    z = [in_distribution(one.flatten(0, 1)).spectrum.mean_z for one in coloured]
    index = next(k for k, value in enumerate(z) if value > 3.9)
    rows = [row for row in distribution_checks(coloured[index]) if row["check"] == "spectrum"]
    assert 3.9 < rows[0]["z"] < 4 and rows[0]["p_value"] < 1.3e-3
    assert "not white Gaussian noise by: spectrum" in distribution_table(rows * 4)


def test_what_cancels_in_the_mean_over_noises_is_told() -> None:
    noise, signs = hashed_normal("noise", (20, 1, 3, 16, 16)), torch.tensor([1.0, -1.0]).repeat(10)
    rows = distribution_checks(noise + 0.15 * signs.reshape(-1, 1, 1, 1, 1))
    assert abs(rows[0]["z"]) < 3 and rows[0]["z_of_one_noise"] > 3
    assert "not white Gaussian noise by: mean" in distribution_table(rows)


P_VALUES = st.lists(st.floats(2e-4, 1), min_size=8, max_size=8)


@given(p_values=P_VALUES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_number_in_the_table_is_under_the_sentence(p_values: list[float]) -> None:
    rows: list[dict[str, Any]] = [
        {"check": f"check{k}", "value": 0.0, "null": 0.0, "z": 0.0, "z_of_one_noise": 1.0}
        | {"p_value": p_values[2 * k], "p_value_of_one_noise": p_values[2 * k + 1]}
        for k in range(4)
    ]
    words = distribution_table(rows).splitlines()[-1]
    level = sidak_level(0.01, 8)
    assert ("Nothing here tells" in words) == (min(p_values) >= level)
    for k in range(4):
        assert (f"check{k}" in words) == (min(p_values[2 * k : 2 * k + 2]) < level)


def test_numbers_of_an_earlier_version_get_no_verdict() -> None:
    row = {"check": "mean", "value": 0.0, "null": 0.0, "z": 3.94, "z_of_one_noise": 1.0}
    assert "An earlier version measured this, without p-values" in distribution_table([row])


@pytest.mark.parametrize(
    "num",
    [
        pytest.param(1, marks=pytest.mark.slow),
        4,
        pytest.param(24, marks=pytest.mark.slow),
        pytest.param(300, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("shape", [(1, 8, 8), pytest.param((3, 16, 16), marks=pytest.mark.slow)])
def test_white_noise_is_called_so_as_often_as_is_said(num: int, shape: tuple[int, int, int]) -> None:
    """The rate of false alarms is 1 %: of 100 tables 1, and 6 or more in one of 1,700 tests."""
    generator, alarms, low = torch.Generator().manual_seed(num), 0, 0
    for _ in range(100):
        tests = in_distribution(torch.randn(num, *shape, generator=generator)).checks().values()
        p_values = [p for test in tests for p in test.p_values()]
        alarms += min(p_values) < sidak_level(0.01, 8)
        low += sum(p < 0.1 for p in p_values)
    assert alarms <= 5
    assert 0.06 < low / (100 * 8) < 0.15


def test_the_level_for_several() -> None:
    assert sidak_level(0.05, 1) == pytest.approx(0.05)
    assert 1 - (1 - sidak_level(0.01, 8)) ** 8 == pytest.approx(0.01)
