"""Anderson acceleration against the printed formula, solved row by row with numpy's least squares."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.inversion.anderson import anderson_step
from tests.reference.golden_inputs import hashed_normal

Row = np.ndarray


def literal(iterates: list[Row], residuals: list[Row], gain: float) -> Row:
    """Walker & Ni 2011, eq. 2.1 with mixing: x + b f - (X + b F) argmin |f - F w|, for one flat row."""
    moves = np.stack([b - a for a, b in pairwise(iterates)], axis=1)
    turns = np.stack([b - a for a, b in pairwise(residuals)], axis=1)
    weights = np.linalg.lstsq(turns, residuals[-1], rcond=None)[0]
    return iterates[-1] + gain * residuals[-1] - (moves + gain * turns) @ weights


def random_history(pairs: int, batch: int = 3) -> list[tuple[Tensor, Tensor]]:
    shape = (batch, 2, 3, 2)
    return [(hashed_normal(f"z {k}", shape), hashed_normal(f"f {k}", shape)) for k in range(pairs)]


@given(pairs=st.integers(2, 6), gain=st.sampled_from([1.0, 0.7, 0.1]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_equals_the_printed_formula(pairs: int, gain: float) -> None:
    history = random_history(pairs)
    step = anderson_step(history, gain)
    for row in range(3):
        iterates, residuals = ([part[row].flatten().numpy() for part in parts] for parts in zip(*history, strict=True))
        np.testing.assert_allclose(step[row].flatten(), literal(iterates, residuals, gain), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pair_is_the_plain_step_and_no_rows_are_none(dtype: torch.dtype) -> None:
    z, residual = (part.to(dtype) for part in random_history(1)[0])
    assert torch.equal(anderson_step([(z, residual)], 0.3), z + 0.3 * residual)
    assert torch.equal(anderson_step([(z, residual)]), z + residual)
    empty = anderson_step([(z[:0], residual[:0])] * 3)
    assert empty.shape == z[:0].shape and empty.dtype == dtype


def test_a_linear_map_is_solved_in_as_many_pairs_as_it_has_eigenvalues() -> None:
    factors = torch.tensor([0.9, -0.5, 0.3]).double().repeat(4)
    solution = hashed_normal("solution", (2, 12))
    z, history = torch.zeros(2, 12).double(), []
    for _ in range(4):
        history.append((z, (z - solution) * factors + solution - z))
        z = anderson_step(history)
    torch.testing.assert_close(z, solution, rtol=0, atol=1e-9)


def test_parallel_and_vanishing_residuals_leave_finite_steps() -> None:
    z, residual = random_history(1)[0]
    parallel = [(k * z, (1 + k) * residual) for k in range(4)]
    vanished = [(k * z, torch.zeros_like(z)) for k in range(4)]
    for history in (parallel, vanished):
        assert bool(torch.isfinite(anderson_step(history)).all())
    torch.testing.assert_close(anderson_step(vanished), 3 * z)


def test_no_row_depends_on_the_others() -> None:
    history = random_history(4)
    together = anderson_step(history, 0.7)
    for row in range(3):
        alone = anderson_step([(z[row : row + 1], f[row : row + 1]) for z, f in history], 0.7)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-12)
