"""The closed-form gains of P2's iteration, and the slope that says which power of the eigenvalue a gain is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probediff.schedule import NoiseSchedule
from probediff.whitening.gains import gain_slope, gaussian_gain
from tests.reference.golden_inputs import hashed_normal

SCHEDULE = NoiseSchedule.cosine(4000)
LATE = 3920  # 0.98 T
# Four and a half decades.
EIGENVALUES = torch.logspace(-4, 0.5, 64, dtype=torch.float64)


@pytest.mark.parametrize(("count", "slope"), [(1e3, -0.05), (1e4, -0.25), (1e6, -0.84)])
def test_at_a_late_timestep_the_slope_is_a_statement_about_the_number_of_iterations(count: float, slope: float) -> None:
    a = float(SCHEDULE.alpha_bar[LATE])
    found = gain_slope(EIGENVALUES, gaussian_gain(EIGENVALUES, a, count))
    assert found.slope == pytest.approx(slope, abs=0.02)
    assert found.num_directions == 64 and found.num_excluded == 0


def test_the_slope_passes_minus_one_half_on_its_way_from_zero_to_minus_one() -> None:
    a = float(SCHEDULE.alpha_bar[LATE])
    counts = 10.0 ** torch.arange(0, 9).double()
    slopes = [gain_slope(EIGENVALUES, gaussian_gain(EIGENVALUES, a, float(n))).slope for n in counts]
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[0] > -0.001 and slopes[-1] < -0.99
    assert gain_slope(EIGENVALUES, gaussian_gain(EIGENVALUES, a)).slope == pytest.approx(-1.0, abs=1e-12)
    crossing = gain_slope(EIGENVALUES, gaussian_gain(EIGENVALUES, a, 10**4.75))
    assert crossing.slope == pytest.approx(-0.5, abs=0.05)
    assert crossing.r2 < 0.9  # near -1/2 it is no power of the eigenvalue at all


def test_gain_of_an_eigenvalue_of_zero_grows_without_limit() -> None:
    a = 0.1
    gain = gaussian_gain(torch.tensor([0.0, 1e-12]), a, 50)
    assert gain[0] == pytest.approx(50 * math.sqrt(a / (1 - a)), rel=1e-12)
    assert float(gain[1]) == pytest.approx(float(gain[0]), rel=1e-9)
    assert math.isinf(float(gaussian_gain(torch.zeros(1), a)[0]))
    with pytest.raises(ValueError, match=r"alpha_bar must be in \(0, 1\)"):
        gaussian_gain(EIGENVALUES, 1.0)


@pytest.mark.parametrize("power", [-0.5, -1.0, 0.0])
def test_an_exact_power_has_its_slope(power: float) -> None:
    found = gain_slope(EIGENVALUES, 3 * EIGENVALUES**power, hashed_normal("w", (64,)).abs())
    assert found.slope == pytest.approx(power, abs=1e-12) and found.standard_error < 1e-7


def test_the_slope_is_numpys_weighted_fit() -> None:
    gain = EIGENVALUES**-0.5 * torch.exp(0.3 * hashed_normal("scatter", (64,)))
    weights = hashed_normal("w", (64,)).abs()
    gain[[3, 9]] = -1.0
    weights[20] = 0.0
    found = gain_slope(EIGENVALUES, gain, weights)
    used = (gain > 0) & (weights > 0)
    x, y, w = (v[used].numpy() for v in (EIGENVALUES, gain, weights))
    fit, cov = np.polyfit(np.log(x), np.log(y), 1, w=np.sqrt(w), cov=True)
    assert found.slope == pytest.approx(fit[0], rel=1e-9)
    assert found.standard_error == pytest.approx(math.sqrt(cov[0, 0]), rel=1e-9)
    assert (found.num_directions, found.num_excluded) == (61, 3)
    unweighted = gain_slope(EIGENVALUES[used], gain[used])
    assert unweighted.r2 == pytest.approx(np.corrcoef(np.log(x), np.log(y))[0, 1] ** 2, rel=1e-9)


def test_a_slope_needs_three_different_directions() -> None:
    with pytest.raises(ValueError, match="positive in at least 3 directions of different eigenvalue, got 2 of 3"):
        gain_slope(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, -1.0]))
    with pytest.raises(ValueError, match="at least 3 directions"):
        gain_slope(torch.ones(5), torch.ones(5))
    with pytest.raises(ValueError, match=r"must have one shape, got \(3,\), \(2,\), \(2,\)"):
        gain_slope(torch.ones(3), torch.ones(2))
