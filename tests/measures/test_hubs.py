"""What captures noises: counts, weighted means, variance and norm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from probediff.measures import (
    assignment_accuracy,
    capture_correlation,
    hub_counts,
    mean_over_captures,
    pixel_variance,
    squared_brightness,
    squared_norm_per_value,
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_hub_counts_are_a_histogram() -> None:
    nearest = assignment_accuracy(normal(90, 10), normal(90, 10, seed=1)).nearest_image
    counts = hub_counts(nearest, 90)
    assert counts.dtype == torch.int64
    assert counts.tolist() == np.bincount(nearest.numpy(), minlength=90).tolist()
    assert hub_counts(torch.tensor([2, 2, 0]), 5).tolist() == [1, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("nearest", "num_candidates", "error", "message"),
    [
        (torch.tensor([0, 3]), 3, ValueError, r"nearest must lie in 0\.\.2, got 0\.\.3"),
        (torch.tensor([-1, 1]), 3, ValueError, r"nearest must lie in 0\.\.2, got -1\.\.1"),
        (torch.zeros(0, dtype=torch.int64), 3, ValueError, r"nearest must be \(N,\) with N > 0, got shape \(0,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), 3, ValueError, r"got shape \(2, 2\)"),
        (torch.zeros(2), 3, TypeError, r"nearest must be an int64 tensor, got torch.float32"),
        ([0, 1], 3, TypeError, "nearest must be an int64 tensor, got list"),
        (torch.tensor([0]), 0, ValueError, "num_candidates must be at least 1, got 0"),
    ],
)
def test_hub_counts_refuse(nearest: torch.Tensor, num_candidates: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hub_counts(nearest, num_candidates)


def test_pixel_variance_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    images = normal(9, 3, 4, 5, dtype=torch.float32) + 100
    expected = images.double().numpy().reshape(9, -1).var(axis=1)
    whole = pixel_variance(images)
    np.testing.assert_allclose(whole.numpy(), expected, rtol=1e-12)
    monkeypatch.setattr("probediff.measures._rows.STREAM_ELEMENTS", 150)
    np.testing.assert_allclose(pixel_variance(images).numpy(), whole.numpy(), rtol=1e-12)
    assert whole.dtype == torch.float64


def test_constant_image_has_no_pixel_variance() -> None:
    assert pixel_variance(torch.full((2, 1, 3, 3), 0.25)).tolist() == [0.0, 0.0]
    assert pixel_variance(torch.ones(1, 1)).tolist() == [0.0]
    with pytest.raises(ValueError, match="images must be finite, got 1 NaN"):
        pixel_variance(torch.tensor([[1.0, torch.nan]]))


def test_squared_norm_is_variance_and_squared_mean() -> None:
    images = normal(20, 3, 5, 5, dtype=torch.float32) + 0.3
    rows = images.double().flatten(1)
    expected = pixel_variance(images) + rows.mean(dim=1).square()
    np.testing.assert_allclose(squared_norm_per_value(images).numpy(), expected.numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="images must be finite"):
        squared_norm_per_value(torch.tensor([[torch.inf, 1.0]]))


def test_brightness_and_variance_add_up_to_the_norm() -> None:
    images = normal(40, 3, 4, 4, dtype=torch.float32) * 0.3 + torch.linspace(-1, 1, 40)[:, None, None, None]
    expected = images.double().flatten(1).mean(dim=1) ** 2
    np.testing.assert_allclose(squared_brightness(images).numpy(), expected.numpy(), rtol=1e-12)
    both = squared_brightness(images) + pixel_variance(images)
    np.testing.assert_allclose(both.numpy(), squared_norm_per_value(images).numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="images must be finite"):
        squared_brightness(torch.tensor([[torch.inf, 1.0]]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(nearest=st.lists(st.integers(0, 8), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_weights_are_captures(nearest: list[int], seed: int) -> None:
    """The mean over the noises of the value of the image that is nearest to each; ranks as scipy's."""
    values = normal(9, seed=seed).round(decimals=1)
    captured = hub_counts(torch.tensor(nearest), 9)
    assert mean_over_captures(captured, values) == pytest.approx(float(values[nearest].mean()), abs=1e-12)
    found = capture_correlation(captured, values)
    if len(set(captured.tolist())) > 1 and len(set(values.tolist())) > 1:
        assert found == pytest.approx(spearmanr(captured.numpy(), values.numpy()).statistic, abs=1e-12)
    else:
        assert found == 0


def test_what_captures_is_a_small_norm() -> None:
    """Sixteen flat but bright images capture nothing, grey ones of small contrast do: the first have less variance."""
    noise, images = normal(200, 3, 8, 8, seed=1), normal(200, 3, 8, 8, seed=2)
    images[:16] = 0.05 * images[:16] + 0.9
    images[16:32] *= 0.2
    found = assignment_accuracy(noise, images)
    captured = hub_counts(found.nearest_image, 200)
    assert int(captured[:16].sum()) == 0
    assert int(captured[16:32].sum()) > 150
    variance, norm = pixel_variance(images), squared_norm_per_value(images)
    assert float(variance[:16].max()) < float(variance[16:32].min())
    assert mean_over_captures(captured, norm) < 0.2 * float(norm.mean())
    assert capture_correlation(captured, norm) < capture_correlation(captured, variance) < 0


@pytest.mark.parametrize(
    ("captured", "values"),
    [
        (torch.tensor([1, 2]), torch.ones(3)),
        (torch.tensor([0, 0]), torch.ones(2)),
        (torch.tensor([[1]]), torch.ones(1, 1)),
    ],
)
def test_captures_without_values_are_refused(captured: torch.Tensor, values: torch.Tensor) -> None:
    for measure in (mean_over_captures, capture_correlation):
        with pytest.raises(ValueError, match=r"captured and values must be \(N,\) with something captured"):
            measure(captured, values)
