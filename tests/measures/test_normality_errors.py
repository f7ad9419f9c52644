"""Standard errors of the statistics of latents: those of the public measures, computed anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import _rows, latent_normality, patch_correlation, pixel_divergence, radial_power
from probediff.measures.normality import band_powers
from probediff.measures.normality_errors import normality_errors
from probediff.measures.uncertainty import ERRORS_IN_INTERVAL
from tests.measures.test_normality import smooth, white
from tests.reference.errors_reference import error_by_recomputing, jackknife_by_hand

SHAPES = st.tuples(st.integers(3, 45), st.integers(1, 2), st.integers(2, 9), st.integers(2, 9))


def errors_of(latents: torch.Tensor) -> dict[str, float]:
    return normality_errors(latents, latent_normality(latents, 5), 5)


@settings(max_examples=7, deadline=None, derandomize=True)
@given(shape=SHAPES, seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_measures_are_computed_anew(shape: tuple[int, int, int, int], seed: int, dtype: torch.dtype) -> None:
    latents, num = smooth(*shape, seed=seed).to(dtype), shape[0]
    errors = errors_of(latents)
    one_less = [[i for i in range(num) if i != left_out] for left_out in range(num)]
    expected = {
        "patch_correlation": error_by_recomputing(lambda kept: patch_correlation(latents[kept]).value, num),
        "low_to_high_power": jackknife_by_hand([radial_power(latents[kept]).low_to_high.value for kept in one_less]),
    }
    if num > 3:  # or a variance would be that of a single sample
        expected["pixel_divergence"] = error_by_recomputing(lambda kept: pixel_divergence(latents[kept]).value, num)
    assert {name: errors[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=7, deadline=None, derandomize=True)
@given(shape=SHAPES, seed=st.integers(0, 999), chunk=st.sampled_from([1, 100, 2**17]))
def test_means_over_samples(shape: tuple[int, int, int, int], seed: int, chunk: int) -> None:
    latents = smooth(*shape, seed=seed)
    normality, num = latent_normality(latents, 5), shape[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "STREAM_ELEMENTS", chunk)
        errors = errors_of(latents)
    rows = latents.double().flatten(1).numpy()
    expected = {
        "mean": rows.mean(axis=1),
        "squared_norm_per_value": (rows**2).mean(axis=1),
        "ks_mean_distance": normality.ks_distances.numpy(),
    }
    for name, values in expected.items():
        assert errors[name] == pytest.approx(values.std(ddof=1) / math.sqrt(num)), name
    spreads = jackknife_by_hand([float(np.delete(rows, i, axis=0).std()) for i in range(num)])
    assert errors["std"] == pytest.approx(spreads, rel=1e-6, abs=1e-7)
    assert errors.keys() == normality.scalars().keys()


def test_shares_of_nothing_and_of_all_have_the_rule_of_three() -> None:
    latents = white(50, 1, 12, 12)
    narrow = 0.3 * latents
    normality = latent_normality(narrow, 20)
    errors = normality_errors(narrow, normality, 20)
    assert normality.norm_outside_share.value == normality.ks_rejected_share.value == 1
    assert errors["norm_outside_share"] == errors["ks_rejected_share"] == pytest.approx(3 / 50 / ERRORS_IN_INTERVAL)
    share = normality.shapiro_rejected_share.value
    assert errors["shapiro_rejected_share"] == pytest.approx(
        max(math.sqrt(share * (1 - share) / 19), 3 / 20 / ERRORS_IN_INTERVAL)
    )
    few = white(400, 1, 8, 8)
    wide = torch.cat([few[:100], 2 * few[100:]])
    share = latent_normality(wide).norm_outside_share.value
    assert 0.5 < share < 0.9
    assert errors_of(wide)["norm_outside_share"] == pytest.approx(math.sqrt(share * (1 - share) / 399))


def test_a_pixel_that_is_the_same_in_all_samples() -> None:
    latents = smooth(40, 1, 9, 9)
    latents[:, :, 2, 3] = 0.1
    errors = errors_of(latents)
    expected = error_by_recomputing(lambda kept: patch_correlation(latents[kept]).value, 40)
    assert errors["patch_correlation"] == pytest.approx(expected, rel=1e-6)
    # It makes the divergence infinite.
    assert math.isnan(errors["pixel_divergence"]) and errors["mean"] > 0


@pytest.mark.parametrize("num", [7, 30, 43])
def test_pixels_that_vary_in_a_single_sample(num: int) -> None:
    latents = smooth(num, 1, 9, 9)
    latents[:, :, 2, 3:5] = 0.1
    latents[4, :, 2, 3:5] = torch.tensor([0.8, -0.4])
    expected = error_by_recomputing(lambda kept: patch_correlation(latents[kept]).value, num)
    assert errors_of(latents)["patch_correlation"] == pytest.approx(expected, rel=1e-6)
    assert math.isnan(errors_of(latents)["pixel_divergence"])


def test_two_samples() -> None:
    errors = errors_of(smooth(2, 1, 8, 8))
    assert math.isnan(errors["pixel_divergence"]) and math.isnan(errors["patch_correlation"])
    assert errors["mean"] > 0 and errors["low_to_high_power"] > 0


def test_band_powers_are_those_of_the_ratio() -> None:
    latents = smooth(12, 3, 8, 16)
    low, high = band_powers(latents)
    assert low.shape == (12,)
    assert float(low.mean() / high.mean()) == pytest.approx(radial_power(latents).low_to_high.value)
    alone = [radial_power(latents[i : i + 1].expand(2, -1, -1, -1)).low_to_high.value for i in range(12)]
    assert (low / high).tolist() == pytest.approx(alone)
