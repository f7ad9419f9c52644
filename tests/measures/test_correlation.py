"""Top-k pixel correlations and their expectation for pure noise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import correlation, null_top_k_correlation, top_k_correlation
from tests.reference.measures_reference import simulated_top_k, top_k_by_matrix


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mixed(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return normal(num, dim, seed=seed) @ normal(dim, dim, seed=seed + 1) + 3.0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    num=st.integers(2, 30),
    dim=st.integers(2, 40),
    k=st.integers(1, 12),
    block=st.sampled_from([1, 3, 7, 64]),
    seed=st.integers(0, 99),
)
def test_against_the_full_matrix(num: int, dim: int, k: int, block: int, seed: int) -> None:
    images = mixed(num, dim, seed)
    k = min(k, dim * (dim - 1) // 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation, "_BLOCK", block)
        assert top_k_correlation(images, k=k) == pytest.approx(top_k_by_matrix(images.numpy(), k), abs=1e-12)


def test_images_are_flattened_and_k_is_10() -> None:
    images = normal(25, 3, 4, 5, dtype=torch.float32)
    expected = top_k_by_matrix(images.double().numpy().reshape(25, -1), 10)
    assert top_k_correlation(images) == pytest.approx(expected, abs=1e-12)
    assert top_k_correlation(images, k=1) > top_k_correlation(images, k=10)


def test_negative_correlations_count_by_size() -> None:
    pixel = normal(20, 1)
    images = torch.cat([pixel, -2 * pixel, normal(20, 1, seed=1)], dim=1)
    assert top_k_correlation(images, k=1) == pytest.approx(1.0, abs=1e-14)


def test_no_correlation_exceeds_1() -> None:
    pixels = normal(20, 40)
    assert 1 - 1e-12 < top_k_correlation(torch.cat([pixels, -pixels], dim=1), k=1) <= 1.0


def test_scale_shift_and_order_of_pixels_change_nothing() -> None:
    images = mixed(40, 15)
    expected = top_k_correlation(images)
    scales = torch.logspace(-90, 90, 15, dtype=torch.float64)
    assert top_k_correlation(images * scales) == pytest.approx(expected, abs=1e-12)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    assert top_k_correlation(images[:, order]) == pytest.approx(expected, abs=1e-12)
    assert top_k_correlation(images.flip(0)) == pytest.approx(expected, abs=1e-12)


def test_little_variation_around_a_large_value_keeps_its_digits() -> None:
    # Whole numbers, so that adding 2^40 is exact.
    images = torch.randint(0, 50, (30, 8), generator=torch.Generator().manual_seed(0)).double()
    assert top_k_correlation(images + 2.0**40, k=5) == pytest.approx(top_k_by_matrix(images.numpy(), 5), abs=1e-13)


def test_two_images_are_always_fully_correlated() -> None:
    assert top_k_correlation(normal(2, 6), k=15) == pytest.approx(1.0, abs=1e-15)


def test_constant_pixels_are_left_out() -> None:
    images = mixed(30, 8)
    with_constants = torch.cat([torch.full((30, 2), 0.1, dtype=torch.float64), images, torch.zeros(30, 1)], dim=1)
    assert top_k_correlation(with_constants, k=28) == pytest.approx(top_k_correlation(images, k=28), abs=1e-14)
    with pytest.raises(ValueError, match=r"at least k = 29 pairs .* got 8 such pixels of 11 \(28 pairs\); lower k"):
        top_k_correlation(with_constants, k=29)


@pytest.mark.parametrize(
    ("images", "k", "message"),
    [
        (torch.ones(1, 6), 1, "images must hold at least 2 samples for a correlation, got 1"),
        (torch.full((5, 6), 0.1), 1, r"got 0 such pixels of 6 \(0 pairs\)"),
        (torch.eye(5), 11, r"at least k = 11 pairs .* got 5 such pixels of 5 \(10 pairs\)"),
        (torch.eye(5), 0, "k must be at least 1, got 0"),
        (torch.ones(0, 6), 1, "images must hold at least one sample"),
        (torch.ones(2, 3, 4), 1, r"images must be \(N, D\) or \(N, C, H, W\)"),
        (torch.tensor([[0.0, torch.nan], [1.0, 2.0]]), 1, "images must be finite, got 1 NaN"),
    ],
)
def test_bad_input_is_refused(images: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_k_correlation(images, k=k)


def test_pure_noise_of_the_paper_and_its_null() -> None:
    # Simulated, for 3 x 32 x 32 images: 0.1552 +- 0.0004 at N = 1000, 0.108 at N = 2048 and 0.341 at N = 200.
    assert null_top_k_correlation(1000, 3072) == pytest.approx(0.1552, abs=0.0004)
    assert null_top_k_correlation(2048, 3072) == pytest.approx(0.108, abs=0.001)
    assert null_top_k_correlation(200, 3072) == pytest.approx(0.341, abs=0.002)
    measured = top_k_correlation(normal(1000, 3, 32, 32, seed=1, dtype=torch.float32))
    assert measured == pytest.approx(0.155, abs=0.01)


@pytest.mark.parametrize(
    ("num", "dim", "k"),
    [(200, 60, 10), (40, 20, 10), (100, 20, 1), (400, 40, 50), (64, 192, 10), (10, 100, 10), (5, 30, 3), (4, 40, 10)],
)
def test_null_is_the_mean_of_simulations(num: int, dim: int, k: int) -> None:
    mean, standard_error = simulated_top_k(num, dim, k, repeats=200, seed=0)
    # Pairs that share a pixel are not independent, and a mean of quantiles is not the quantile of a mean.
    assert null_top_k_correlation(num, dim, k) == pytest.approx(mean, abs=0.003 * mean + 3 * standard_error)


def test_null_falls_with_images_and_k_and_grows_with_pixels() -> None:
    assert null_top_k_correlation(2048, 3072) < null_top_k_correlation(1000, 3072)
    assert null_top_k_correlation(1000, 12288) > null_top_k_correlation(1000, 3072)
    assert null_top_k_correlation(1000, 3072, k=100) < null_top_k_correlation(1000, 3072)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 10, 1), "num_images must be at least 4, got 3"),
        ((10, 1, 1), "num_pixels must be at least 2, got 1"),
        ((10, 5, 0), "k must be at least 1, got 0"),
        ((10, 5, 11), "k must be at most the 10 pairs of 5 pixels, got 11; lower k"),
    ],
)
def test_null_refuses(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        null_top_k_correlation(*arguments)
