"""Standard errors: closed forms, literal jackknives, and ways to halve samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probediff.measures import uncertainty as u
from tests.reference.errors_reference import (
    errors_by_recomputing,
    halves_by_hand,
    jackknife_by_hand,
    kept_by_group,
)

DTYPES = st.sampled_from([torch.float32, torch.float64])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_the_interval_is_that_of_student() -> None:
    quantile = stats.t.ppf(0.975, u.NUM_GROUPS - 1)
    assert quantile == pytest.approx(u.ERRORS_IN_INTERVAL, abs=5e-4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(num=st.integers(2, 60), seed=st.integers(0, 999), dtype=DTYPES)
def test_the_error_of_a_mean_is_its_closed_form(num: int, seed: int, dtype: torch.dtype) -> None:
    values = 3 + normal(num, seed=seed, dtype=dtype)
    found, expected = u.mean_with_error(values), stats.sem(values.double().numpy())
    assert found.value == pytest.approx(float(values.double().mean()))
    assert found.error == pytest.approx(expected)
    assert u.error_of_means(lambda means: means[0], values) == pytest.approx(expected)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(num=st.integers(2, 60), seed=st.integers(0, 999), dtype=DTYPES)
def test_errors_of_functions_of_means_leave_out_one_at_a_time(num: int, seed: int, dtype: torch.dtype) -> None:
    a, b = normal(num, seed=seed, dtype=dtype).exp(), 2 + normal(num, seed=seed + 1000, dtype=dtype).square()
    others = [[j for j in range(num) if j != i] for i in range(num)]
    ratios = [float(a[kept].double().mean() / b[kept].double().mean()) for kept in others]
    expected = jackknife_by_hand(ratios)
    assert u.error_of_means(lambda means: means[0] / means[1], a, b) == pytest.approx(expected, rel=1e-9)
    spreads = jackknife_by_hand([float(np.std(a[kept].double().numpy())) for kept in others])
    found = u.std_with_error(a)
    assert found.value == pytest.approx(np.std(a.double().numpy()))
    assert found.error == pytest.approx(spreads, rel=1e-6, abs=1e-7)


def test_a_function_that_is_not_finite_without_a_sample_has_no_error() -> None:
    lone = torch.tensor([1.0, 0.0, 0.0])
    assert math.isnan(u.error_of_means(lambda means: 1 / means[0], lone))
    assert u.error_of_means(lambda means: 1 / means[0], lone + 1) > 0


@settings(max_examples=15, deadline=None, derandomize=True)
@given(num=st.integers(2, 30), dim=st.integers(1, 9), seed=st.integers(0, 999), dtype=DTYPES)
def test_moments_of_images(num: int, dim: int, seed: int, dtype: torch.dtype) -> None:
    images = (5 + normal(num, 1, dim, 2, seed=seed)).to(dtype)
    mean, std = u.moments_with_errors(images)
    rows = images.double().flatten(1).numpy()
    others = [np.delete(rows, i, axis=0) for i in range(num)]
    assert mean.value == pytest.approx(rows.mean())
    assert std.value == pytest.approx(rows.std())
    assert mean.error == pytest.approx(jackknife_by_hand([other.mean() for other in others]))
    assert std.error == pytest.approx(jackknife_by_hand([other.std() for other in others]), rel=1e-6, abs=1e-7)


def test_shares() -> None:
    flags = torch.tensor([1.0] * 30 + [0.0] * 70)
    assert u.share_error(0.3, 100) == pytest.approx(u.mean_with_error(flags).error)
    # The rule of three: 0 of 100 are found with a probability of 5 % where the share is 3 %.
    for share in (0.0, 1.0):
        assert u.share_error(share, 100) * u.ERRORS_IN_INTERVAL == pytest.approx(0.03)
    assert stats.binom.pmf(0, 100, 0.03) == pytest.approx(0.05, abs=0.003)
    assert u.least_share_error(7) * u.ERRORS_IN_INTERVAL == pytest.approx(3 / 7)
    assert all(math.isnan(u.share_error(share, 1)) for share in (0.0, 1.0))


def test_one_sample_has_no_error() -> None:
    one = torch.tensor([2.0])
    assert math.isnan(u.mean_with_error(one).error) and u.mean_with_error(one).value == 2
    assert math.isnan(u.std_with_error(one).error)
    assert all(math.isnan(number.error) for number in u.moments_with_errors(normal(1, 1, 3, 3)))
    assert math.isnan(u.jackknife_error(one))
    assert u.jackknife(lambda kept: {"mean": float(kept.double().mean())}, 1) == {}


def test_errors_that_are_not_known_are_absent() -> None:
    numbers = {"a": u.WithError(1.0, 0.5), "b": u.WithError(2.0, math.nan), "c": 3.0, "d": u.WithError(4.0, 0.0)}
    assert u.split_errors(numbers) == ({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, {"a": 0.5, "d": 0.0})


@pytest.mark.parametrize("num", [1, 2, 3, 7, 19, 20, 21, 40, 47])
def test_groups_are_every_twentieth_sample(num: int) -> None:
    assert [kept.tolist() for kept in u.rows_without_groups(num)] == kept_by_group(num)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(num=st.integers(2, 50), seed=st.integers(0, 999))
def test_jackknife_computes_anew(num: int, seed: int) -> None:
    values = normal(num, seed=seed)

    def statistics(kept: torch.Tensor) -> dict[str, float]:
        return {"largest": float(values[kept].max()), "median": float(values[kept].median())}

    assert u.jackknife(statistics, num) == pytest.approx(errors_by_recomputing(statistics, num))


def test_jackknife_of_what_is_not_defined() -> None:
    def refuse(kept: torch.Tensor) -> dict[str, float]:
        raise ValueError("too few")

    assert u.jackknife(refuse, 30) == {}
    assert u.jackknife_errors([]) == u.jackknife_errors([{"a": 1.0}]) == {}
    found = u.jackknife_errors([{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": math.nan}, {"a": 6.0, "b": 2.0}])
    assert found == {"a": pytest.approx(jackknife_by_hand([1.0, 2.0, 6.0]))}
    assert math.isnan(u.jackknife_error(torch.tensor([1.0, math.inf, 2.0])))


def test_the_jackknife_of_a_mean_in_groups_is_the_error_of_the_means_of_the_groups() -> None:
    values = normal(60)
    found = u.jackknife(lambda kept: {"mean": float(values[kept].mean())}, 60)["mean"]
    assert found == pytest.approx(stats.sem(values.reshape(3, 20).mean(dim=0).numpy()))


@pytest.mark.parametrize("num", [16, 32, 160, 37, 250])
def test_halves_are_those_of_hadamards_matrix(num: int) -> None:
    halves = u.half_splits(num)
    assert halves.shape == (15, num) and halves.dtype == torch.bool
    for row, (one, other) in zip(halves, halves_by_hand(num), strict=True):
        assert (row.nonzero().flatten().tolist(), (~row).nonzero().flatten().tolist()) == (one, other)


@pytest.mark.parametrize("num", [16, 64, 160])
def test_halves_are_balanced_and_orthogonal(num: int) -> None:
    signs = u.half_splits(num).double() * 2 - 1
    torch.testing.assert_close(signs @ signs.T, num * torch.eye(15, dtype=torch.float64), rtol=0, atol=0)
    assert signs.sum(dim=1).tolist() == [0.0] * 15


def test_halves_give_the_error_of_a_mean_exactly() -> None:
    """15 orthogonal differences of 16 numbers hold all that their variance is made of."""
    values = normal(16)
    ways = u.half_splits(16)
    one, other = (torch.stack([values[half].mean() for half in halves]) for halves in (ways, ~ways))
    assert u.error_from_halves(one, other) == pytest.approx(u.mean_with_error(values).error)


def test_small_differences_of_large_numbers_keep_their_digits() -> None:
    without = [{"cost": 1e6 + 1e-3 * k} for k in range(20)]
    expected = jackknife_by_hand([1e-3 * k for k in range(20)])
    assert u.jackknife_errors(without)["cost"] == pytest.approx(expected, rel=1e-6)


def test_verdicts_use_the_same_interval() -> None:
    from probediff.report.verdicts.rule import T_QUANTILE

    assert round(u.ERRORS_IN_INTERVAL, 2) == T_QUANTILE
