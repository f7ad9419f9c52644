"""Streamed moments and the fit of a linear map, against numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_squared_error, r2_score
from torch import Tensor

from probediff.measures import covariance as covariance_module
from probediff.measures.covariance import linear_fit, moments, paired_moments
from tests.reference.golden_inputs import hashed_images, hashed_normal

SIZE = 12


def correlated(num: int = 200, size: int = SIZE, name: str = "x") -> Tensor:
    """(num, size) float64 with unequal variances and a mean."""
    mixing = hashed_normal("mixing", (size, size)) / size**0.5 + torch.diag(torch.linspace(0.3, 2.0, size).double())
    return hashed_normal(name, (num, size)) @ mixing + torch.linspace(-3, 3, size).double()


@given(num=st.integers(2, 40), size=st.integers(1, 9), batch=st.integers(1, 13))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_streamed_moments_are_numpys(num: int, size: int, batch: int) -> None:
    x = correlated(num, size)
    found = moments(x.split(batch))
    assert found.num_samples == num
    np.testing.assert_allclose(found.mean, x.numpy().mean(axis=0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(x.numpy().T).reshape(size, size), rtol=1e-10, atol=1e-12)


def test_moments_of_images_are_exact_far_from_zero_and_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariance_module, "_TILE", 5)
    images = hashed_images("moments", (50, 3, 2, 2)) + 1e6
    found = moments(images.split(7))
    assert torch.equal(found.covariance, found.covariance.T)
    exact = np.cov((images - 1e6).flatten(1).numpy().T)
    np.testing.assert_allclose(found.covariance, exact, rtol=0, atol=1e-8)


def test_paired_moments_are_numpys_joint_covariance() -> None:
    x, z = correlated(), correlated(name="z")[:, :5]
    found = paired_moments(zip(x.split(33), z.split(33), strict=True))
    joint = np.cov(np.concatenate([x, z], axis=1).T)
    np.testing.assert_allclose(found.x.covariance, joint[:SIZE, :SIZE], rtol=1e-10)
    np.testing.assert_allclose(found.cross_covariance, joint[:SIZE, SIZE:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.z_variance, np.diag(joint)[SIZE:], rtol=1e-10)
    np.testing.assert_allclose(found.z_mean, z.numpy().mean(axis=0), rtol=1e-12)


def test_moments_refuse_what_is_no_set_of_images() -> None:
    with pytest.raises(ValueError, match=r"at least 2 samples for a covariance, got 1"):
        moments([correlated(1)])
    with pytest.raises(ValueError, match=r"at least 2 samples for a covariance, got 0"):
        moments([])
    with pytest.raises(ValueError, match=r"images must have 12 values in every batch, got 5"):
        moments([correlated(), correlated(size=5)])
    with pytest.raises(TypeError, match=r"images must have a floating dtype"):
        moments([torch.zeros(3, 4, dtype=torch.uint8)])
    with pytest.raises(ValueError, match=r"z must have 12 values in every batch"):
        paired_moments([(correlated(), correlated()), (correlated(), correlated(size=5))])
    with pytest.raises(ValueError, match=r"must agree in number of samples"):
        paired_moments([(correlated(3), correlated(4))])


def noisy_pairs(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    x, matrix = correlated(400), hashed_normal("matrix", (SIZE, SIZE))
    return x, (x - 1) @ matrix.T + noise * hashed_normal("noise", x.shape), matrix


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_fit_is_scikit_learns(scale: float) -> None:
    x, z, matrix = noisy_pairs(0.5)
    matrix = scale * matrix
    pairs = paired_moments([(x, z)])
    fit = linear_fit(zip(x.split(64), z.split(64), strict=True), matrix, pairs)
    centred_x, centred_z = x - x.mean(dim=0), z - z.mean(dim=0)
    predicted = centred_x @ matrix.T
    residual = (centred_z - predicted).flatten().numpy()
    assert fit.mse == pytest.approx(mean_squared_error(centred_z, predicted), rel=1e-12)
    assert fit.r2 == pytest.approx(r2_score(centred_z, predicted, multioutput="variance_weighted"), rel=1e-12)
    best = float(np.linalg.lstsq(predicted.reshape(-1, 1), centred_z.flatten(), rcond=None)[0][0])
    assert fit.best_scale == pytest.approx(best, rel=1e-10)
    scaled = r2_score(centred_z, best * predicted, multioutput="variance_weighted")
    assert fit.r2_scaled == pytest.approx(scaled, rel=1e-10)
    assert fit.residual_mean == pytest.approx(0, abs=1e-12)
    assert fit.residual_std == pytest.approx(residual.std(), rel=1e-10)
    assert fit.residual_skewness == pytest.approx(stats.skew(residual), abs=1e-9)
    assert fit.residual_excess_kurtosis == pytest.approx(stats.kurtosis(residual), abs=1e-9)
    counts = np.histogram(np.clip(residual, *fit.histogram_edges[[1, -2]].numpy()), fit.histogram_edges.numpy())[0]
    inner = slice(2, -2)
    np.testing.assert_array_equal(fit.histogram_counts[inner], counts[inner])
    assert float(fit.histogram_counts.sum()) == residual.size


def test_the_fit_refuses_what_does_not_match() -> None:
    x, z, matrix = noisy_pairs(0.5)
    pairs = paired_moments([(x, z)])
    with pytest.raises(ValueError, match=r"matrix must be \(12, 12\), got \(12, 5\)"):
        linear_fit([(x, z)], matrix[:, :5], pairs)
    with pytest.raises(ValueError, match=r"x must have 12 values"):
        linear_fit([(x[:, :5], z)], matrix, pairs)
    with pytest.raises(ValueError, match=r"hold pairs whose z varies, got 0 values"):
        linear_fit([], matrix, pairs)
