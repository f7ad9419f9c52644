"""Normality of latents: against scipy and loops, and the nulls against simulation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probediff.measures import (
    kolmogorov_smirnov,
    latent_normality,
    patch_correlation,
    pixel_divergence,
    radial_power,
    shapiro_rejected_share,
    squared_norms,
)
from tests.reference.latents_reference import (
    patch_correlation_by_loops,
    pixel_divergence_by_loops,
    radial_power_by_loops,
)


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    """Correlated neighbours, as latents have."""
    x = white(*shape, seed=seed)
    return 0.6 * x + 0.3 * x.roll(1, dims=-1) + 0.2 * x.roll(1, dims=-2) + 0.1


SHAPES = st.tuples(st.integers(3, 12), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


def test_white_noise_meets_every_null() -> None:
    found = latent_normality(white(600, 3, 16, 16))
    allowed = {
        "mean": 0.01,
        "std": 0.005,
        "pixel_divergence": 1e-4,
        "ks_mean_distance": 1.5e-3,
        "ks_rejected_share": 0.03,
        "shapiro_rejected_share": 0.03,
        "squared_norm_per_value": 0.01,
        "norm_outside_share": 0.03,
        "low_to_high_power": 0.02,
        "patch_correlation": 2e-4,
    }
    scalars = found.scalars()
    assert scalars.keys() == allowed.keys()
    for name, measured in scalars.items():
        assert abs(measured.value - measured.null) < allowed[name], name
    np.testing.assert_allclose(found.radial_power.power, 1, atol=0.15)


def test_smooth_latents_are_found_out() -> None:
    found = latent_normality(smooth(200, 3, 16, 16))
    for name, factor in (("pixel_divergence", 5), ("ks_mean_distance", 3), ("low_to_high_power", 3)):
        value, null = found.scalars()[name]
        assert value > factor * null, name
    # Few of the 18,336 pairs in a patch are neighbours.
    assert found.patch_correlation.value > found.patch_correlation.null + 0.003
    assert found.ks_rejected_share.value > 0.9
    assert found.norm_outside_share.value > 0.9
    assert found.mean.value == pytest.approx(0.1, abs=0.01)
    assert found.std.value == pytest.approx(0.7, abs=0.01)
    # Linear mixing of normals stays normal, so that this test alone, of any mean and variance, does not see it.
    assert found.shapiro_rejected_share.value < 0.2


@settings(max_examples=4, deadline=None, derandomize=True)
@given(shape=SHAPES, seed=st.integers(0, 99))
def test_against_independent_code(shape: tuple[int, int, int, int], seed: int) -> None:
    latents = smooth(*shape, seed=seed)
    rows = latents.flatten(1).double().numpy()
    found = latent_normality(latents)
    assert found.mean.value == pytest.approx(rows.mean())
    assert found.std.value == pytest.approx(rows.std())
    kolmogorov = [stats.kstest(row, "norm") for row in rows]
    np.testing.assert_allclose(found.ks_distances, [test.statistic for test in kolmogorov], rtol=1e-9)
    assert found.ks_rejected_share.value == pytest.approx(np.mean([test.pvalue < 0.05 for test in kolmogorov]))
    shapiro = [stats.shapiro(row).pvalue < 0.05 for row in rows]
    assert found.shapiro_rejected_share.value == pytest.approx(np.mean(shapiro))
    squares = (rows**2).sum(axis=1)
    inside = [0.025 <= stats.chi2(rows.shape[1]).cdf(square) <= 0.975 for square in squares]
    assert found.norm_outside_share.value == pytest.approx(1 - np.mean(inside))
    assert found.squared_norm_per_value.value == pytest.approx(squares.mean() / rows.shape[1])
    assert found.pixel_divergence.value == pytest.approx(pixel_divergence_by_loops(rows), rel=1e-6)
    rings = radial_power_by_loops(latents.double().numpy())
    side = min(shape[2:])
    np.testing.assert_allclose(found.radial_power.frequency, [ring / side for ring in sorted(rings)])
    np.testing.assert_allclose(found.radial_power.power, [rings[ring] for ring in sorted(rings)], rtol=1e-9)


@pytest.mark.parametrize("shape", [(9, 2, 8, 8), (5, 1, 10, 12), (4, 1, 3, 9)])
def test_patches_by_loops(shape: tuple[int, ...]) -> None:
    latents = smooth(*shape)
    expected = patch_correlation_by_loops(latents.double().numpy())
    assert patch_correlation(latents).value == pytest.approx(expected)


def test_constant_pixels_have_no_correlation() -> None:
    latents = smooth(9, 1, 2, 3)
    varying = patch_correlation(latents[:, :, :, 1:])
    latents[:, :, :, 0] = 2.0
    assert patch_correlation(latents) == pytest.approx(varying)
    with pytest.raises(ValueError, match="patch with two pixels that vary"):
        patch_correlation(torch.full((3, 1, 4, 4), 0.5))


@pytest.mark.parametrize("num", [3, pytest.param(17, marks=pytest.mark.slow)])
def test_nulls_by_simulation(num: int) -> None:
    draws = [latent_normality(white(num, 1, 4, 4, seed=seed)) for seed in range(400)]
    for name, (_, null) in draws[0].scalars().items():
        values = np.array([draw.scalars()[name].value for draw in draws])
        assert abs(values.mean() - null) < 4 * values.std() / 20 + 1e-3 * (name == "shapiro_rejected_share"), name


def test_null_of_the_ratio() -> None:
    # 4 x 4 pixels: all 15 waves but the constant one belong to the upper band.
    assert radial_power(white(3, 1, 4, 4)).low_to_high.null == pytest.approx(45 / 43)


def test_ratio_of_the_bands() -> None:
    # A wave of two cycles over 16 pixels is 1/8 cycles per pixel, one of four cycles is 1/4: first and last of a band.
    along = torch.arange(16.0)
    for cycles, low in ((2, True), (4, False)):
        wave = torch.cos(2 * torch.pi * cycles * along / 16).expand(1, 1, 16, 16)
        latents = torch.cat([white(2, 1, 16, 16), wave * 100])
        ratio = radial_power(latents).low_to_high.value
        assert ratio > 100 if low else ratio < 0.01


def test_shapiro_looks_at_5000_values_of_the_first_samples() -> None:
    latents = white(4, 3, 50, 50)
    latents[2:] = latents[2:].exp()
    order = torch.randperm(7500, generator=torch.Generator().manual_seed(0))[:5000]
    expected = [stats.shapiro(row[order].double().numpy()).pvalue < 0.05 for row in latents.flatten(1)]
    assert shapiro_rejected_share(latents).value == pytest.approx(np.mean(expected)) == 0.5
    assert shapiro_rejected_share(latents, max_samples=3).value == pytest.approx(1 / 3)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = smooth(23, 2, 6, 6)
    whole = latent_normality(latents)
    monkeypatch.setattr("probediff.measures._rows.STREAM_ELEMENTS", 150)
    for name, (value, _) in latent_normality(latents).scalars().items():
        assert value == pytest.approx(whole.scalars()[name].value, rel=1e-12), name


def test_half_precision_and_global_random_state() -> None:
    latents = smooth(20, 1, 8, 8).half()
    before = torch.get_rng_state()
    found = latent_normality(latents)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.scalars() == latent_normality(latents.double()).scalars()


@pytest.mark.parametrize(
    ("measure", "latents", "message"),
    [
        (
            latent_normality,
            torch.ones(1, 1, 4, 4),
            "latents must hold at least 2 samples of at least 3 values, got 1 of 16",
        ),
        (latent_normality, torch.ones(4, 1, 1, 2), "got 4 of 2"),
        (squared_norms, torch.full((3, 4), torch.nan), "latents must be finite, got 12 NaN"),
        (radial_power, white(4, 16), r"must be \(N, C, H, W\) with H or W at least 2, got shape \(4, 16\)"),
        (radial_power, white(4, 5, 1, 1), r"got shape \(4, 5, 1, 1\)"),
        (patch_correlation, white(4, 16), r"must be \(N, C, H, W\), got shape \(4, 16\)"),
        (kolmogorov_smirnov, torch.zeros(0, 4), "at least one sample"),
    ],
)
def test_bad_input_is_refused(measure: Callable[..., object], latents: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(latents)


def test_max_samples_is_checked() -> None:
    with pytest.raises(ValueError, match="max_samples must be at least 1, got 0"):
        shapiro_rejected_share(white(3, 4), 0)


def test_constant_pixels_and_samples_are_as_far_from_normal_as_can_be() -> None:
    latents = white(6, 1, 4, 4)
    rejected = shapiro_rejected_share(latents).value
    latents[:, 0, 0, 0] = -1.0
    assert pixel_divergence(latents).value == float("inf")
    latents[2] = 0.5
    assert shapiro_rejected_share(latents).value == pytest.approx(rejected + 1 / 6)
    assert shapiro_rejected_share(torch.arange(3.0)[:, None].expand(3, 5)).value == 1.0
