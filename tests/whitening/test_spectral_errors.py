"""Standard errors of slopes and R²: those of fits that are made anew without each group of images."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probediff.measures.whitening import WhiteningTransform
from probediff.whitening.spectral import ComparedMap, SpectralFit, along_eigenvectors, fits_without_groups, spectral_fit
from tests.reference.errors_reference import jackknife_by_hand, kept_by_group


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images_and_noises(num: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, WhiteningTransform]:
    """Images, noises that a map between ZCA and the image makes of them, and the statistics of many images."""
    mixing = normal(dim, dim, seed=seed + 1) + 2 * torch.eye(dim, dtype=torch.float64)
    covariance = mixing @ mixing.T
    whitening = WhiteningTransform.from_covariance(torch.zeros(dim, dtype=torch.float64), covariance)
    x = normal(num, dim, seed=seed) @ mixing.T + 0.5
    z = whitening.whiten(x) + 0.05 * x + 0.3 * normal(num, dim, seed=seed + 2)
    return x, z, whitening


def along(x: torch.Tensor, z: torch.Tensor, whitening: WhiteningTransform) -> tuple[torch.Tensor, torch.Tensor]:
    return along_eigenvectors(x, whitening), along_eigenvectors(z, whitening)


def assert_same(found: SpectralFit, expected: SpectralFit) -> None:
    for name in ("eigenvalues", "variance", "gain", "standard_error"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-10)
    assert found.z_power == pytest.approx(expected.z_power, rel=1e-10)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num=st.integers(4, 65),
    dim=st.integers(3, 70),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_fits_are_made_anew_without_each_group(num: int, dim: int, seed: int, dtype: torch.dtype) -> None:
    x, z, whitening = images_and_noises(num, dim, seed)
    x, z = x.to(dtype), z.to(dtype)
    found = fits_without_groups(*along(x, z, whitening), whitening.eigenvalues)
    for fit, kept in zip(found, kept_by_group(num), strict=True):
        # Centred on the images that are kept.
        assert_same(fit, spectral_fit(*along(x[kept], z[kept], whitening), whitening.eigenvalues))


def test_gains_without_a_group_are_regression_lines() -> None:
    x, z, whitening = images_and_noises(50, 5)
    fits = fits_without_groups(*along(x, z, whitening), whitening.eigenvalues)
    plain_x, plain_z = ((rows @ whitening.eigenvectors).numpy() for rows in (x, z))
    for fit, kept in zip(fits, kept_by_group(50), strict=True):
        lines = [stats.linregress(plain_x[kept, i], plain_z[kept, i]) for i in range(5)]
        np.testing.assert_allclose(fit.gain, [line.slope for line in lines], rtol=1e-9)
        np.testing.assert_allclose(fit.standard_error, [line.stderr for line in lines], rtol=1e-9)


@pytest.mark.parametrize("with_network", [True, False])
@pytest.mark.parametrize("num", [12, 50])
def test_errors_of_all_numbers_of_both_points(with_network: bool, num: int) -> None:
    x, z, whitening = images_and_noises(num, 8)
    gain = whitening.eigenvalues**-0.4
    along_x, along_z = along(x, z, whitening)
    compared = ComparedMap.of("iterations", 3, (along_x, along_z if with_network else None), gain, whitening)
    points = []
    for kept in kept_by_group(num):
        rows_x, rows_z = along(x[kept], z[kept], whitening)
        gaussian = spectral_fit(rows_x, rows_x * gain, whitening.eigenvalues)
        network = spectral_fit(rows_x, rows_z, whitening.eigenvalues) if with_network else gaussian
        points.append((asdict(network.point()), asdict(gaussian.point(network.weights))))
    for found, of_groups in zip(compared.errors(), zip(*points, strict=True), strict=True):
        for name, error in found.items():
            expected = jackknife_by_hand([point[name] for point in of_groups])
            assert error == pytest.approx(expected, rel=1e-3, abs=1e-9), name
    # All numbers but those that no image has an influence on.
    assert compared.errors()[0].keys() == asdict(compared.points()[0]).keys()
    record = compared.record()
    for point, errors in zip(("model", "gaussian"), compared.errors(), strict=True):
        assert record[point]["standard_errors"] == errors


def test_numbers_that_are_missing_without_a_group_have_no_error() -> None:
    x, _, whitening = images_and_noises(40, 5)
    gain = torch.ones_like(whitening.eigenvalues)
    compared = ComparedMap.of("num_steps", 3, along(x, -x, whitening), gain, whitening)
    model, gaussian = compared.errors()
    assert compared.points()[0].slope is None
    assert {"slope", "slope_unweighted", "power_law_r2"}.isdisjoint(model) and "image_r2_scaled" in model
    assert not any(map(math.isnan, (*model.values(), *gaussian.values())))


def test_too_few_images_have_no_error() -> None:
    x, z, whitening = images_and_noises(3, 5)
    assert fits_without_groups(*along(x, z, whitening), whitening.eigenvalues) == []
    compared = ComparedMap.of("num_steps", 3, along(x, z, whitening), torch.ones_like(whitening.eigenvalues), whitening)
    assert compared.errors() == ({}, {}) and "standard_errors" not in compared.record()["model"]
    assert compared.record()["model"]["noise_rms"] > 0
