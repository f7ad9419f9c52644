"""Spherical interpolation and path lengths."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import midpoint_contrast, path_lengths, slerp, slerp_path
from tests.reference.latents_reference import slerp_by_hand


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num=st.integers(1, 5),
    dim=st.integers(2, 12),
    weight=st.floats(0, 1, allow_subnormal=False),
    seed=st.integers(0, 999),
)
def test_against_one_pair_at_a_time(num: int, dim: int, weight: float, seed: int) -> None:
    a, b = normal(num, dim, seed=seed), 3 * normal(num, dim, seed=seed + 1000)
    expected = [slerp_by_hand(x, y, weight) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(slerp(a, b, weight), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_ends_are_exact(dtype: torch.dtype) -> None:
    a, b = normal(4, 3, 5, 6, dtype=dtype), normal(4, 3, 5, 6, seed=1, dtype=dtype)
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    middle = slerp(a, b, 0.5)
    assert middle.dtype == dtype
    assert middle.shape == a.shape


def test_each_sample_turns_by_its_own_angle_and_keeps_its_length() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[0.0, 1.0], [2.0 * math.sin(1.0), 2.0 * math.cos(1.0)]])
    found = slerp(a, b, 0.25)
    eighth = math.pi / 8
    torch.testing.assert_close(found[0], torch.tensor([math.cos(eighth), math.sin(eighth)]))
    torch.testing.assert_close(found[1], 2 * torch.tensor([math.sin(0.25), math.cos(0.25)]))


def test_noise_stays_noise_where_the_straight_line_would_not() -> None:
    a, b = normal(50, 3, 32, 32), normal(50, 3, 32, 32, seed=1)
    assert slerp(a, b, 0.5).std() == pytest.approx(1, abs=0.01)
    assert (a + b).div(2).std() == pytest.approx(math.sqrt(0.5), abs=0.01)


def test_nearly_parallel_vectors_go_straight() -> None:
    a = normal(3, 8)
    for b in (a, 2 * a, a * (1 + 1e-9 * normal(3, 8, seed=1))):
        torch.testing.assert_close(slerp(a, b, 0.3), 0.7 * a + 0.3 * b, rtol=1e-12, atol=0)
    just_above = a + 1e-5 * normal(3, 8, seed=1)
    torch.testing.assert_close(slerp(a, just_above, 0.3), 0.7 * a + 0.3 * just_above, rtol=1e-9, atol=1e-9)


def test_path() -> None:
    a, b = normal(2, 1, 3, 3), normal(2, 1, 3, 3, seed=1)
    path = slerp_path(a, b, 5)
    assert path.shape == (5, 2, 1, 3, 3)
    for k in range(5):
        assert torch.equal(path[k], slerp(a, b, k / 4))
    with pytest.raises(ValueError, match="num_points must be at least 2, got 1"):
        slerp_path(a, b, 1)


def test_path_lengths() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]], [[3.0, 5.0], [1.0, 3.0]]])
    torch.testing.assert_close(path_lengths(points), torch.tensor([6.0, 2.0], dtype=torch.float64))
    quarter = slerp_path(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1001)
    assert float(path_lengths(quarter)[0]) == pytest.approx(math.pi / 2, abs=1e-5)
    images = normal(4, 3, 2, 5, 5)
    assert torch.equal(path_lengths(images), path_lengths(images.flatten(2)))
    assert path_lengths(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).tolist() == [2.0, 0.0]
    for bad in (torch.zeros(1, 2, 3), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"points must be \(P, N, ...\) with P at least 2, got shape"):
            path_lengths(bad)


def test_midpoint_contrast() -> None:
    images = normal(5, 6, 3, 4, 4) * torch.tensor([2.0, 7.0, 1.0, 7.0, 4.0]).view(5, 1, 1, 1, 1)
    spread = images.flatten(2).numpy().std(axis=2).mean(axis=1)
    assert midpoint_contrast(images) == pytest.approx(spread[2] / ((spread[0] + spread[4]) / 2))
    for bad in (images[:4], images[:1], torch.zeros(3, 4)):
        with pytest.raises(ValueError, match=r"images must be \(P, N, ...\) with P odd and at least 3, got shape"):
            midpoint_contrast(bad)
    with pytest.raises(ValueError, match="images must vary at the ends of the paths"):
        midpoint_contrast(torch.ones(3, 2, 1, 4, 4))


@pytest.mark.parametrize(
    ("a", "b", "weight", "message"),
    [
        (normal(2, 3), normal(2, 4), 0.5, "a and b must agree in shape"),
        (normal(2, 3), normal(2, 3), 1.1, r"weight must be in 0..1, got 1.1"),
        (normal(2, 3), normal(2, 3), math.nan, "got nan"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2), 0.5, r"a must have no zero vector.*indices: 1\)"),
        (torch.ones(2, 2), torch.zeros(2, 2), 0.5, r"b must have no zero vector.*indices: 0, 1\)"),
        (normal(2, 3), -2 * normal(2, 3), 0.5, "must not point in opposite directions, got 2 such pairs"),
    ],
)
def test_bad_input_is_refused(a: torch.Tensor, b: torch.Tensor, weight: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slerp(a, b, weight)
