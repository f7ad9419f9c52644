"""Whitening statistics, the five transforms and the fit of a linear map, against numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from probediff.measures.covariance import moments, paired_moments
from probediff.measures.whitening import (
    WHITENING_METHODS,
    WhiteningMethod,
    WhiteningTransform,
    deviation_from_identity,
    least_squares_map,
    matrix_distance,
)
from tests.reference.golden_inputs import hashed_normal
from tests.reference.whitening_reference import w_diff, whitening_matrices

SIZE = 12


def correlated(num: int = 200, size: int = SIZE, name: str = "x") -> Tensor:
    """(num, size) float64 with unequal variances and a mean."""
    mixing = hashed_normal("mixing", (size, size)) / size**0.5 + torch.diag(torch.linspace(0.3, 2.0, size).double())
    return hashed_normal(name, (num, size)) @ mixing + torch.linspace(-3, 3, size).double()


def fitted(x: Tensor, ridge: float = 0.0) -> WhiteningTransform:
    found = moments([x])
    return WhiteningTransform.from_covariance(found.mean, found.covariance, ridge)


@pytest.mark.parametrize("method", WHITENING_METHODS)
def test_each_transform_is_the_printed_formula(method: WhiteningMethod) -> None:
    x = correlated()
    whitening = fitted(x)
    matrix = whitening.matrix(method).numpy()
    np.testing.assert_allclose(matrix, whitening_matrices(np.cov(x.numpy().T))[method], rtol=0, atol=1e-10)
    np.testing.assert_allclose(matrix @ np.cov(x.numpy().T) @ matrix.T, np.eye(SIZE), rtol=0, atol=1e-10)
    np.testing.assert_allclose(matrix.T @ matrix @ np.cov(x.numpy().T), np.eye(SIZE), rtol=0, atol=1e-9)
    np.testing.assert_allclose(whitening.inverse_matrix(method), np.linalg.inv(matrix), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", WHITENING_METHODS)
def test_whitened_images_are_white_and_come_back(method: WhiteningMethod) -> None:
    images = correlated().reshape(-1, 3, 2, 2)
    whitening = fitted(images)
    white = whitening.whiten(images, method)
    assert white.shape == images.shape
    np.testing.assert_allclose(np.cov(white.flatten(1).numpy().T), np.eye(SIZE), rtol=0, atol=1e-10)
    np.testing.assert_allclose(white.flatten(1).mean(dim=0), np.zeros(SIZE), rtol=0, atol=1e-12)
    torch.testing.assert_close(whitening.dewhiten(white, method), images, rtol=0, atol=1e-11)
    assert whitening.whiten(images.float(), method).dtype == torch.float32
    deviation = deviation_from_identity(moments([white]).covariance)
    assert deviation == pytest.approx((1.0, 0.0, 0.0), abs=1e-10)


def test_pca_is_scikit_learns_up_to_sign() -> None:
    x = correlated()
    ours = fitted(x).whiten(x, "pca").numpy()
    theirs = PCA(whiten=True).fit_transform(x.numpy())
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours * signs, theirs, rtol=0, atol=1e-9)


def test_zca_is_symmetric_and_cholesky_is_upper_triangular() -> None:
    whitening = fitted(correlated())
    zca, cholesky = whitening.matrix("zca"), whitening.matrix("cholesky")
    torch.testing.assert_close(zca, zca.T, rtol=0, atol=1e-12)
    assert bool((cholesky.tril(-1) == 0).all()) and bool((cholesky.diagonal() > 0).all())
    assert not torch.allclose(whitening.matrix("zca_cor"), whitening.matrix("zca_cor").T)


def test_zca_maximises_the_average_covariance_and_zca_cor_the_average_correlation() -> None:
    x = correlated()
    whitening, covariance = fitted(x), moments([x]).covariance
    inverse_std = covariance.diagonal() ** -0.5

    def covariance_with_data(matrix: Tensor) -> float:
        return float((matrix @ covariance).trace())

    def correlation_with_data(matrix: Tensor) -> float:
        return float(((matrix @ covariance) * inverse_std).trace())

    zca, zca_cor = whitening.matrix("zca"), whitening.matrix("zca_cor")
    rotations = [torch.linalg.qr(hashed_normal(f"rotation {i}", (SIZE, SIZE))).Q for i in range(20)]
    small = [torch.linalg.matrix_exp(0.1 * (q - q.T)) for q in rotations]
    others = [whitening.matrix(m) for m in WHITENING_METHODS]
    for other in [*others, *(r @ zca for r in rotations + small), *(r @ zca_cor for r in small)]:
        assert covariance_with_data(other) <= covariance_with_data(zca) + 1e-10
        assert correlation_with_data(other) <= correlation_with_data(zca_cor) + 1e-10
    assert correlation_with_data(zca) < correlation_with_data(zca_cor) - 1e-3
    assert covariance_with_data(zca_cor) < covariance_with_data(zca) - 1e-3


def test_rank_deficient_covariances_need_a_ridge() -> None:
    few = correlated(num=8)
    with pytest.raises(ValueError, match=r"got rank 7 of 12 .*pass more than 12 images without constant pixels, or a"):
        fitted(few)
    constant = correlated()
    constant[:, 3] = 0.5
    with pytest.raises(ValueError, match=r"got rank 11 of 12"):
        fitted(constant)
    with pytest.raises(ValueError, match=r"got rank 0 of 12"):
        fitted(torch.ones(4, SIZE))
    whitening = fitted(few, ridge=1e-3)
    covariance = np.cov(few.numpy().T)
    regular = covariance + 1e-3 * np.trace(covariance) / SIZE * np.eye(SIZE)
    np.testing.assert_allclose(whitening.covariance(), regular, rtol=0, atol=1e-12)
    expected = whitening_matrices(regular)
    for method in WHITENING_METHODS:
        matrix = whitening.matrix(method).numpy()
        np.testing.assert_allclose(matrix @ regular @ matrix.T, np.eye(SIZE), rtol=0, atol=1e-9)
        if not method.startswith("pca"):  # whose vectors are free among the equal eigenvalues that the ridge makes
            np.testing.assert_allclose(matrix, expected[method], rtol=1e-6, atol=1e-7)


def test_statistics_refuse_wrong_input() -> None:
    whitening = fitted(correlated())
    with pytest.raises(ValueError, match=r"images must have 12 values each.*got 5"):
        whitening.whiten(correlated(size=5))
    with pytest.raises(ValueError, match=r"method must be one of zca, zca_cor.*got 'ica'"):
        whitening.whiten(correlated(), "ica")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"method must be one of"):
        whitening.dewhiten(correlated(), "ica")  # type: ignore[arg-type]
    lopsided = torch.eye(3).double()
    lopsided[0, 1] = 0.1
    with pytest.raises(ValueError, match=r"must be symmetric.*by up to 0.1"):
        WhiteningTransform.from_covariance(torch.zeros(3), lopsided)
    with pytest.raises(ValueError, match=r"must be finite"):
        WhiteningTransform.from_covariance(torch.zeros(3), torch.full((3, 3), float("nan")))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(4, 4\)"):
        WhiteningTransform.from_covariance(torch.zeros(3), torch.eye(4))
    with pytest.raises(ValueError, match=r"ridge must be 0 or more"):
        WhiteningTransform.from_covariance(torch.zeros(3), torch.eye(3), -1.0)


# --- the fitted map


def noisy_pairs(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    x, matrix = correlated(400), hashed_normal("matrix", (SIZE, SIZE))
    return x, (x - 1) @ matrix.T + noise * hashed_normal("noise", x.shape), matrix


def test_w_diff_is_the_normal_equations() -> None:
    x, z, matrix = noisy_pairs(0.5)
    pairs = paired_moments(zip(x.split(90), z.split(90), strict=True))
    found = least_squares_map(pairs, WhiteningTransform.from_covariance(pairs.x.mean, pairs.x.covariance))
    np.testing.assert_allclose(found, w_diff(x.numpy(), z.numpy()), rtol=0, atol=1e-10)
    x, z, matrix = noisy_pairs(0.0)
    exact = paired_moments([(x, z)])
    torch.testing.assert_close(least_squares_map(exact, fitted(x)), matrix, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"make it from pairs.x"):
        least_squares_map(exact, fitted(correlated(size=5)))


@given(rows=st.integers(1, 30), columns=st.integers(1, 30))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_distances_are_numpys_norms(rows: int, columns: int) -> None:
    a, b = hashed_normal("a", (rows, columns)), hashed_normal("b", (rows, columns))
    distance = matrix_distance(a, b)
    assert distance.spectral == pytest.approx(np.linalg.norm((a - b).numpy(), 2), rel=1e-9)
    assert distance.frobenius == pytest.approx(np.linalg.norm((a - b).numpy(), "fro"), rel=1e-12)
    assert matrix_distance(a, a) == (0.0, 0.0)


def test_distances_of_a_large_matrix_and_of_one_with_equal_singular_values() -> None:
    a, zero = hashed_normal("a", (400, 300)), torch.zeros(400, 300)
    assert matrix_distance(a, zero).spectral == pytest.approx(float(torch.linalg.svdvals(a)[0]), rel=1e-9)
    assert matrix_distance(3 * torch.eye(50), torch.zeros(50, 50)).spectral == pytest.approx(3.0, rel=1e-12)
    with pytest.raises(ValueError, match=r"matrices of one shape, got \(50, 50\) and \(400, 300\)"):
        matrix_distance(torch.eye(50), zero)


def test_white_noise_deviates_from_the_identity_as_stated() -> None:
    num, size = 2000, 40
    deviation = deviation_from_identity(moments([hashed_normal("white", (num, size))]).covariance)
    assert deviation.mean_variance == pytest.approx(1, abs=4 * (2 / num / size) ** 0.5)
    assert deviation.rms_diagonal == pytest.approx((2 / num) ** 0.5, rel=0.4)
    assert deviation.rms_off_diagonal == pytest.approx(num**-0.5, rel=0.1)
    pattern = torch.full((size, size), 0.5).fill_diagonal_(3.0)
    assert deviation_from_identity(pattern) == pytest.approx((3.0, 2.0, 0.5))
