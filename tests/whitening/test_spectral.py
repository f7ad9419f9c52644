"""Gains along eigenvectors against scipy's regression lines, R² against that of matrices, and the points of curves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probediff.measures.covariance import linear_fit, paired_moments
from probediff.measures.whitening import WhiteningTransform
from probediff.whitening.spectral import ComparedMap, along_eigenvectors, spectral_fit
from tests.reference.golden_inputs import hashed_normal


def test_gains_are_the_regression_lines() -> None:
    x = hashed_normal("x", (400, 12)) @ (hashed_normal("mixing", (12, 12)) + 2 * torch.eye(12).double())
    z = (x - 1) @ hashed_normal("matrix", (12, 12)).T + 0.5 * hashed_normal("noise", x.shape)
    transform = WhiteningTransform.from_covariance(x.mean(dim=0), torch.cov(x.T))
    along_x, along_z = along_eigenvectors(x, transform), along_eigenvectors(z, transform)
    gains = spectral_fit(along_x, along_z, transform.eigenvalues)
    torch.testing.assert_close(gains.variance, transform.eigenvalues, rtol=1e-10, atol=0)
    plain_x, plain_z = (x @ transform.eigenvectors).numpy(), (z @ transform.eigenvectors).numpy()
    lines = [stats.linregress(plain_x[:, i], plain_z[:, i]) for i in range(12)]
    np.testing.assert_allclose(gains.gain, [line.slope for line in lines], rtol=1e-9)
    np.testing.assert_allclose(gains.standard_error, [line.stderr for line in lines], rtol=1e-9)
    torch.testing.assert_close(gains.weights, (gains.standard_error / gains.gain) ** -2, rtol=1e-10, atol=0)
    exact = spectral_fit(along_x, 2 * along_x, transform.eigenvalues)
    assert float(exact.weights.max()) <= 1.0000001e12


def test_r2_of_a_power_is_that_of_its_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64) @ torch.randn(5, 5, generator=generator).double()
    z = x @ torch.randn(5, 5, generator=generator).double() + torch.randn(60, 5, generator=generator)
    pairs = paired_moments([(x, z)])
    transform = WhiteningTransform.from_covariance(pairs.x.mean, pairs.x.covariance)
    fit = spectral_fit(along_eigenvectors(x, transform), along_eigenvectors(z, transform), transform.eigenvalues)
    for method, power in (("zca", -0.5), (None, -1.0)):
        matrix = transform.matrix("zca") if method else torch.linalg.inv(pairs.x.covariance)
        expected = linear_fit([(x, z)], matrix, pairs)
        assert fit.r2(transform.eigenvalues**power) == pytest.approx(expected.r2)
        assert fit.r2_scaled(transform.eigenvalues**power) == pytest.approx(expected.r2_scaled)
    with pytest.raises(ValueError, match="at least 3 images for a standard error, got 2"):
        spectral_fit(x[:2], z[:2], transform.eigenvalues)


def test_unrelated_noises_look_like_zca_but_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(600, 100, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, 100).double()
    transform = WhiteningTransform.from_covariance(x.mean(dim=0), torch.cov(x.T))
    z = torch.randn(600, 100, generator=generator, dtype=torch.float64)
    along = along_eigenvectors(x, transform)
    unrelated = spectral_fit(along, along_eigenvectors(z, transform), transform.eigenvalues).point()
    assert unrelated.slope_unweighted == pytest.approx(-0.5, abs=0.1)
    assert unrelated.significant_share < 0.05 and unrelated.zca_r2_scaled < 0.01
    along_z = along_eigenvectors(transform.whiten(x) + z, transform)
    related = spectral_fit(along, along_z, transform.eigenvalues).point()
    assert related.significant_share == 1 and related.zca_r2_scaled == pytest.approx(0.5, abs=0.05)
    assert related.slope == pytest.approx(-0.5, abs=0.02)


def test_curve_points_of_maps_without_a_slope() -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    transform = WhiteningTransform.from_covariance(x.mean(dim=0), torch.cov(x.T))
    along = along_eigenvectors(x, transform)
    point = spectral_fit(along, -along, transform.eigenvalues).point()
    assert point.slope is None and point.image_r2_scaled == pytest.approx(1)
    assert spectral_fit(along, 0 * along, transform.eigenvalues).point().zca_r2_scaled == 0


def test_a_compared_map_serialises_itself_and_weighs_both_slopes_alike() -> None:
    x = hashed_normal("x", (50, 6)) * torch.logspace(-1, 1, 6).double()
    transform = WhiteningTransform.from_covariance(x.mean(dim=0), torch.cov(x.T))
    along = along_eigenvectors(x, transform)
    gaussian = spectral_fit(along, along * transform.eigenvalues**-0.4, transform.eigenvalues)
    network = spectral_fit(along, along + 0.1 * hashed_normal("z", (50, 6)), transform.eigenvalues)
    both = ComparedMap("iterations", 7, gaussian, network, {"residual_rms": 0.5})
    record = both.record()
    assert (record["iterations"], record["model"]["residual_rms"]) == (7, 0.5)
    assert record["model"]["slope"] == network.point().slope
    assert record["gaussian"]["slope"] == gaussian.point(network.weights).slope
    assert set(both.arrays()) == {"gain_iterations_7", "gain_error_iterations_7", "gaussian_gain_iterations_7"}
    alone = ComparedMap("num_steps", 8, gaussian)
    assert alone.record()["model"] == alone.record()["gaussian"]
    assert set(alone.arrays()) == {"gain_ddim_8", "gain_error_ddim_8"}
