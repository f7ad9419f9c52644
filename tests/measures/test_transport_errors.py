"""Optimal assignments without each group of samples: those of the public measure, computed anew."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import Transport, optimal_transport
from probediff.measures.transport import transports_without_groups
from tests.reference.errors_reference import kept_by_group


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(found: Transport, expected: Transport) -> None:
    for (name, value), other in zip(asdict(found).items(), asdict(expected).values(), strict=True):
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other), name
        else:
            assert value == pytest.approx(other, rel=1e-6, abs=1e-9), name


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    num=st.integers(2, 50),
    dim=st.integers(3, 60),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    constant=st.booleans(),
)
def test_they_are_computed_anew_without_each_group(
    num: int, dim: int, seed: int, dtype: torch.dtype, constant: bool
) -> None:
    noise = normal(num, dim, seed=seed).to(dtype)
    x_0 = (0.3 * noise + 0.5 * normal(num, dim, seed=seed + 1000) + 3).to(dtype)
    if constant:
        x_0[:, 0] = 0.1
    found = list(transports_without_groups(noise, x_0))
    groups = kept_by_group(num) if num > 2 else []
    for without, kept in zip(found, groups, strict=True):
        assert_same(without, optimal_transport(noise[kept], x_0[kept]))


def test_images_that_are_there_twice() -> None:
    """Which of them is assigned is open; what it costs is not."""
    noise, x_0 = normal(40, 6), normal(10, 6, seed=1).repeat(4, 1)
    for without, kept in zip(transports_without_groups(noise, x_0), kept_by_group(40), strict=True):
        expected = optimal_transport(noise[kept], x_0[kept])
        for name in ("optimal_cost", "identity_gap", "random_gap", "nearest_image_gap", "nearest_noise_gap"):
            assert getattr(without, name) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_bad_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 samples for an assignment with a choice, got 1"):
        next(transports_without_groups(normal(1, 4), normal(1, 4)))
    with pytest.raises(ValueError, match="x_0 must hold different samples, got 9 equal ones"):
        next(transports_without_groups(normal(9, 4), torch.ones(9, 4)))
