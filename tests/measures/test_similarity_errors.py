"""Standard errors of CKA and SVCCA: what the public measures give when they are computed anew without each group."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from probediff.measures import cka, similarity_errors, svcca
from probediff.measures.similarity_errors import cka_errors, svcca_error
from probediff.measures.uncertainty import half_splits
from tests.reference.errors_reference import error_by_recomputing

DTYPES = st.sampled_from([torch.float32, torch.float64])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def related(num: int, dim: int, other_dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = normal(num, dim, seed=seed) @ torch.diag(torch.linspace(2, 0.2, dim, dtype=torch.float64)) + 0.7
    return x, x @ normal(dim, other_dim, seed=seed + 1) + normal(num, other_dim, seed=seed + 2) - 2.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    num=st.integers(6, 65),
    dim=st.integers(1, 50),
    other_dim=st.integers(1, 50),
    chunk=st.sampled_from([1, 60, 333, 2**22]),
    seed=st.integers(0, 99),
    dtype=DTYPES,
    constant=st.booleans(),
)
def test_cka_is_computed_anew_without_each_group(
    num: int, dim: int, other_dim: int, chunk: int, seed: int, dtype: torch.dtype, constant: bool
) -> None:
    x, y = (rows.to(dtype) for rows in related(num, dim, other_dim, seed))
    if constant:
        x = torch.cat([x, torch.full((num, 1), 0.1, dtype=dtype)], dim=1)
    biased = error_by_recomputing(lambda kept: cka(x[kept], y[kept]), num)
    debiased = error_by_recomputing(lambda kept: cka(x[kept], y[kept], debiased=True), num)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity_errors, "CHUNK_ELEMENTS", chunk)
        assert cka_errors(x, y) == pytest.approx((biased, debiased), rel=1e-6, abs=1e-9)


def test_cka_of_equal_sets_has_no_error() -> None:
    x = normal(50, 3, 2, 2, dtype=torch.float32)
    assert cka_errors(x, -2 * x) == pytest.approx((0, 0), abs=1e-12)


def test_cka_that_is_not_defined_has_no_error() -> None:
    x, y = normal(30, 5), normal(30, 4, seed=1)
    assert all(map(math.isnan, cka_errors(x[:5], y[:5])))
    assert all(error > 0 for error in cka_errors(x[:6], y[:6]))
    constant = torch.full((30, 3), 0.1, dtype=torch.float64)
    assert all(map(math.isnan, cka_errors(constant, y)))
    # Samples that are equally far apart have a debiased HSIC of 0 with themselves.
    assert math.isnan(cka_errors(torch.eye(30), y)[1])
    with pytest.raises(ValueError, match="must agree in number of samples"):
        cka_errors(x, y[:29])


@pytest.mark.parametrize("num", [7, 25, 40])
def test_a_set_that_varies_in_one_sample_alone_has_no_error(num: int) -> None:
    """Without that sample it is constant, but for rounding."""
    x = torch.full((num, 3), 0.1, dtype=torch.float64)
    x[2] = torch.tensor([0.7, -0.3, 0.9])
    y = normal(num, 4)
    assert math.isnan(error_by_recomputing(lambda kept: cka(x[kept], y[kept]), num))
    assert all(map(math.isnan, cka_errors(x, y)))


def error_by_halving(x: torch.Tensor, y: torch.Tensor, num_directions: int = 10) -> float:
    """The standard deviation of SVCCA over halves, each by itself."""
    halves = half_splits(len(x))
    values = [svcca(x[half], y[half], num_directions) for half in torch.cat([halves, ~halves])]
    return float(np.std(values))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    num=st.integers(20, 70),
    dim=st.integers(5, 90),
    other_dim=st.integers(5, 90),
    directions=st.integers(1, 4),
    seed=st.integers(0, 99),
    dtype=DTYPES,
    constant=st.booleans(),
)
def test_svcca_is_computed_anew_on_each_half(
    num: int, dim: int, other_dim: int, directions: int, seed: int, dtype: torch.dtype, constant: bool
) -> None:
    x, y = (rows.to(dtype) for rows in related(num, dim, other_dim, seed))
    if constant:
        x = torch.cat([x, torch.full((num, 1), 0.1, dtype=dtype)], dim=1)
    assert svcca_error(x, y, directions) == pytest.approx(error_by_halving(x, y, directions), rel=0.05, abs=1e-3)


@pytest.mark.parametrize("num", [40, 60, 200])
def test_svcca_of_images(num: int) -> None:
    """Many pixels are the same in all images, some in all but one."""
    x = torch.from_numpy(load_digits().images)[:num, None].float() / 8 - 1
    y = (x + 0.3 * normal(*x.shape)).clamp(-1, 1).float()
    assert svcca_error(x, y) == pytest.approx(error_by_halving(x, y), rel=0.02)


def test_svcca_of_directions_that_are_all_alike() -> None:
    """The hardest ones to tell apart: what few iterations leave out makes the error too small by some percent."""
    x, y = related(200, 192, 192)
    assert svcca_error(x, y) == pytest.approx(error_by_halving(x, y), rel=0.15)


def test_scales_and_shifts_of_columns_change_nothing() -> None:
    x, y = related(60, 20, 25)
    expected = svcca_error(x, y)
    scales = torch.logspace(-100, 100, 20, dtype=torch.float64)
    assert svcca_error(x * scales, y - 9) == pytest.approx(expected, rel=1e-3)
    assert svcca_error(y, x) == pytest.approx(expected, rel=1e-3)
    assert cka_errors(1e120 * x, -1e-120 * y) == pytest.approx(cka_errors(x, y), rel=1e-9)
    assert svcca_error(x, x.flip(1)) == pytest.approx(0, abs=1e-6)


def test_svcca_that_is_not_defined_has_no_error() -> None:
    x, y = normal(20, 20), normal(20, 20, seed=1)
    assert math.isnan(svcca_error(x, y)) and svcca(x, y) > 0
    assert svcca_error(x, y, 5) > 0
    assert math.isnan(svcca_error(x[:1], y[:1], 1))
    with pytest.raises(ValueError, match="num_directions must be at least 1, got 0"):
        svcca_error(x, y, 0)
