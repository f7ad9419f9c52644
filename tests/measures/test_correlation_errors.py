"""Standard errors of the largest correlations: against a literal computation on halves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from probediff.measures import correlation, top_k_correlation
from probediff.measures.correlation import top_k_correlation_error
from tests.reference.errors_reference import halves_by_hand, top_k_error_by_halves


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mixed(num: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Pixels of which some are strongly correlated."""
    mixing = torch.eye(dim, dtype=torch.float64) + normal(dim, dim, seed=seed + 1) / math.sqrt(dim)
    return (normal(num, dim, seed=seed) @ mixing + 3).to(dtype)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num=st.integers(32, 90),
    dim=st.integers(3, 60),
    k=st.sampled_from([1, 3, 10]),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    constant=st.booleans(),
)
def test_against_halves_by_hand(num: int, dim: int, k: int, seed: int, dtype: torch.dtype, constant: bool) -> None:
    images, k = mixed(num, dim, seed, dtype), min(k, math.comb(dim - 1, 2))
    if constant:
        images[:, 0] = 0.1
    expected = top_k_error_by_halves(images.double().numpy(), k)
    assert top_k_correlation_error(images, k) == pytest.approx(expected, rel=1e-3)


def test_every_half_is_measured_by_itself() -> None:
    """With the public measure on each half, which selects its own pixels."""
    images = mixed(75, 20)
    z = [[math.atanh(top_k_correlation(images[half])) for half in halves] for halves in halves_by_hand(75)]
    expected = (1 - top_k_correlation(images) ** 2) * math.sqrt(np.mean([(a - b) ** 2 for a, b in z]) / 4)
    assert top_k_correlation_error(images) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("block", [7, 64])
@pytest.mark.parametrize("at_once", [5, 333])
def test_blocks_and_chunks_change_nothing(block: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = mixed(50, 40)
    expected = top_k_correlation_error(images)
    monkeypatch.setattr(correlation, "_BLOCK", block)
    monkeypatch.setattr(correlation, "_PAIRS_AT_ONCE", at_once)
    assert top_k_correlation_error(images) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("images", [normal(100, 600), mixed(100, 600), normal(100, 600, seed=5).exp()])
@pytest.mark.parametrize("block", [256, 2048])
def test_the_most_correlated_pairs_stand_for_all(
    images: torch.Tensor, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(correlation, "_MOST_PAIRS", 10**6)
    of_all = top_k_correlation_error(images)
    monkeypatch.setattr(correlation, "_BLOCK", block)
    monkeypatch.setattr(correlation, "_MOST_PAIRS", 20_000)
    assert top_k_correlation_error(images) == pytest.approx(of_all, rel=0.15)


@pytest.mark.parametrize("count", [1, 10, 400, 1000, 5000])
@pytest.mark.parametrize("few", [4, 256])
def test_which_pairs_are_correlated_most(count: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "_FEW", few)
    monkeypatch.setattr(correlation, "_BLOCK", 19)
    pixels = normal(70, 40)
    pixels[1::7] = pixels[::7] + 0.1 * pixels[1::7]
    pairs = zip(*(part.tolist() for part in correlation._most_correlated_pairs(pixels, count)), strict=True)
    rows, columns = np.triu_indices(70, 1)
    largest = np.argsort(-np.abs((pixels @ pixels.T).numpy()[rows, columns]))[:count]
    assert set(pairs) == set(zip(rows[largest].tolist(), columns[largest].tolist(), strict=True))


def test_pixels_that_are_hardly_correlated_are_all_looked_at() -> None:
    """Of 64 orthogonal pixels no threshold but one below 0 finds a pair."""
    left, right = correlation._most_correlated_pairs(torch.eye(64), 2000)
    assert len(set(zip(left.tolist(), right.tolist(), strict=True))) == 2000
    assert bool((left < right).all())


@pytest.mark.parametrize("num", [50, 64, 150, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_that_are_the_same_all_over_a_half(num: int, dtype: torch.dtype) -> None:
    """Many at the edge of handwritten digits are; what rounding leaves of their variance there is no correlation."""
    chosen = torch.randperm(1797, generator=torch.Generator().manual_seed(num))[:num]
    images = torch.from_numpy(load_digits().images)[chosen].to(dtype) / 8 - 1
    expected = top_k_error_by_halves(images.double().flatten(1).numpy(), 10)
    assert top_k_correlation_error(images[:, None]) == pytest.approx(expected, rel=1e-3)


def test_scale_and_shift_change_nothing() -> None:
    images = mixed(64, 12)
    expected = top_k_correlation_error(images)
    scales = torch.logspace(-90, 90, 12, dtype=torch.float64)
    assert top_k_correlation_error(images * scales) == pytest.approx(expected, rel=1e-4)
    assert top_k_correlation_error(images + 1000) == pytest.approx(expected, rel=1e-4)


def test_pixels_that_are_equal_have_no_error_to_speak_of() -> None:
    pixel = normal(64, 1)
    images = torch.cat([pixel, pixel, normal(64, 3, seed=1)], dim=1)
    assert top_k_correlation_error(images, 1) == pytest.approx(0, abs=1e-6)


def test_too_few_images_have_no_error() -> None:
    assert math.isnan(top_k_correlation_error(normal(31, 9)))
    assert top_k_correlation_error(normal(32, 9)) > 0


@pytest.mark.parametrize(
    ("images", "k", "message"),
    [
        (torch.full((40, 6), 0.1), 1, r"got 0 such pixels of 6 \(0 pairs\)"),
        (normal(40, 5), 11, r"at least k = 11 pairs .* got 5 such pixels of 5 \(10 pairs\)"),
        (normal(40, 5), 0, "k must be at least 1, got 0"),
        (normal(40, 5) / 0, 1, "images must be finite"),
    ],
)
def test_bad_input_is_refused(images: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_k_correlation_error(images, k)
