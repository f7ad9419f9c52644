"""P2's fixed point on the Gaussian denoiser, where everything about it is known, and on awkward networks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.measures.covariance import paired_moments
from probediff.measures.whitening import WhiteningTransform, least_squares_map
from probediff.schedule import NoiseSchedule
from probediff.whitening.gains import gain_slope, gaussian_gain
from probediff.whitening.noise_iteration import IterationSettings, iterate_noise
from probediff.whitening.spectral import spectral_fit
from tests.reference.golden_inputs import hashed_normal

SCHEDULE = NoiseSchedule.cosine(4000)
LATE = 3920  # 0.98 T
# Four and a half decades.
EIGENVALUES = torch.logspace(-4, 0.5, 64, dtype=torch.float64)
QUICK = torch.logspace(-1, 0.5, 64, dtype=torch.float64)


def gaussian(eigenvalues: Tensor = EIGENVALUES) -> tuple[GaussianDenoiser, Tensor]:
    """A denoiser with these eigenvalues in a rotated basis; and the covariance."""
    size = len(eigenvalues)
    basis = torch.linalg.qr(hashed_normal("basis", (size, size))).Q
    covariance = (basis * eigenvalues) @ basis.T
    return GaussianDenoiser(
        torch.linspace(-0.5, 0.5, size).double(), (covariance + covariance.T) / 2, SCHEDULE
    ), covariance


def images(num: int = 3) -> Tensor:
    return hashed_normal("images", (num, 1, 8, 8)) * 0.5


def near_and_far(denoiser: GaussianDenoiser) -> Tensor:
    """Three images at very different distances from the mean, which therefore need very different numbers."""
    return denoiser.mean.reshape(1, 8, 8) + images() * torch.tensor([1e-3, 0.1, 30.0]).double()[:, None, None, None]


def gaussian_fixed_point(
    denoiser: GaussianDenoiser, x_0: Tensor, timestep: int, num_iterations: float = math.inf
) -> Tensor:
    """The closed form of so many iterations from zero."""
    gain = gaussian_gain(denoiser.eigenvalues, float(SCHEDULE.alpha_bar[timestep]), num_iterations)
    centred = x_0.flatten(1).to(denoiser.mean) - denoiser.mean
    return (((centred @ denoiser.eigenvectors) * gain) @ denoiser.eigenvectors.T).reshape(x_0.shape)


def gain_along_eigenvectors(denoiser: GaussianDenoiser, inputs: Tensor, outputs: Tensor) -> Tensor:
    """(D,) for D inputs that are mean + eigenvectors, in the denoiser's order."""
    zero = outputs[-1]
    return ((outputs[:-1] - zero) * denoiser.eigenvectors.T).sum(dim=1)


# --- the statements about P2 for Gaussian data


def test_the_limit_is_proportional_to_the_inverse_covariance_and_not_to_zca() -> None:
    eigenvalues = torch.logspace(-0.5, 0.5, 64, dtype=torch.float64)
    denoiser, covariance = gaussian(eigenvalues)
    x_0 = images()
    for timestep in (1000, 2000, 3000):
        a = float(SCHEDULE.alpha_bar[timestep])
        found = iterate_noise(denoiser, SCHEDULE, x_0, timestep, IterationSettings(3000, 1e-13))
        assert bool(found.converged.all())
        centred = (x_0.flatten(1) - denoiser.mean).numpy().T
        expected = math.sqrt((1 - a) / a) * np.linalg.solve(covariance.numpy(), centred).T
        np.testing.assert_allclose(found.eps.flatten(1), expected, rtol=1e-7, atol=1e-9)


def test_every_iterate_is_the_closed_form_and_a_start_decays() -> None:
    denoiser, covariance = gaussian()
    x_0, seen = images(), {}
    settings_ = IterationSettings(40, 0.0)
    iterate_noise(denoiser, SCHEDULE, x_0, LATE, settings_, on_iteration=lambda n, eps: seen.update({n: eps}))
    assert sorted(seen) == list(range(1, 41))
    for n in (1, 2, 7, 40):
        torch.testing.assert_close(seen[n], gaussian_fixed_point(denoiser, x_0, LATE, n), rtol=1e-9, atol=1e-12)
    start = hashed_normal("start", tuple(x_0.shape))
    moved = iterate_noise(denoiser, SCHEDULE, x_0, LATE, settings_, start).eps - seen[40]
    a = float(SCHEDULE.alpha_bar[LATE])
    rho = np.linalg.matrix_power((1 - a) * np.linalg.inv(a * covariance.numpy() + (1 - a) * np.eye(64)), 40)
    np.testing.assert_allclose(moved.flatten(1), start.flatten(1).numpy() @ rho.T, rtol=1e-9, atol=1e-12)


def test_the_slope_after_a_thousand_iterations_is_what_the_iteration_gives() -> None:
    denoiser, _ = gaussian()
    inputs = denoiser.mean + torch.cat([denoiser.eigenvectors.T, torch.zeros(1, 64).double()])
    found = iterate_noise(denoiser, SCHEDULE, inputs.reshape(-1, 1, 8, 8), LATE, IterationSettings(1000, 0.0))
    gain = gain_along_eigenvectors(denoiser, inputs, found.eps.flatten(1))
    expected = gaussian_gain(denoiser.eigenvalues, float(SCHEDULE.alpha_bar[LATE]), 1000)
    torch.testing.assert_close(gain, expected, rtol=1e-8, atol=0)
    assert gain_slope(denoiser.eigenvalues, gain).slope == pytest.approx(-0.05, abs=0.02)


def test_the_full_ddim_map_tends_to_zca() -> None:
    eigenvalues = torch.logspace(-1.5, 0.5, 16, dtype=torch.float64)
    denoiser, covariance = gaussian(eigenvalues)
    zca = WhiteningTransform.from_covariance(denoiser.mean, covariance)
    inputs = denoiser.mean + torch.cat([denoiser.eigenvectors.T, torch.zeros(1, 16).double()])
    errors, slopes = [], []
    for num_steps in (50, 100, 200, 400, 800):
        latents = ddim_invert(denoiser, SCHEDULE, inputs, num_steps, "diffusers", clip=False)
        gain = gain_along_eigenvectors(denoiser, inputs, latents)
        errors.append(float((gain * denoiser.eigenvalues.sqrt() - 1).abs().max()))
        slopes.append(gain_slope(denoiser.eigenvalues, gain).slope)
    assert all(after < 0.65 * before for before, after in pairwise(errors))
    assert errors[-1] < 0.02 and slopes[-1] == pytest.approx(-0.5, abs=0.005)
    back = ddim_sample(denoiser, SCHEDULE, zca.whiten(inputs), 800, "diffusers", clip=False)
    torch.testing.assert_close(back, inputs, rtol=0, atol=0.03)


def test_w_diff_of_gaussian_pairs_has_the_closed_forms_slope() -> None:
    eigenvalues = torch.logspace(-2, 0.5, 12, dtype=torch.float64)
    denoiser, _ = gaussian(eigenvalues)
    x = hashed_normal("data", (400, 12)) @ (denoiser.eigenvectors * denoiser.eigenvalues.sqrt()).T + denoiser.mean
    z = iterate_noise(denoiser, SCHEDULE, x, LATE, IterationSettings(300, 0.0)).eps
    pairs = paired_moments([(x, z)])
    fitted = least_squares_map(pairs, WhiteningTransform.from_covariance(pairs.x.mean, pairs.x.covariance))
    gain = (denoiser.eigenvectors.T @ fitted @ denoiser.eigenvectors).diagonal()
    expected = gaussian_gain(denoiser.eigenvalues, float(SCHEDULE.alpha_bar[LATE]), 300)
    torch.testing.assert_close(gain, expected, rtol=1e-6, atol=0)
    along_x, along_z = ((rows - rows.mean(dim=0)) @ denoiser.eigenvectors for rows in (x, z))
    gains = spectral_fit(along_x, along_z, denoiser.eigenvalues)
    weighted = gain_slope(denoiser.eigenvalues, gains.gain, gains.weights)
    assert weighted.slope == pytest.approx(gain_slope(denoiser.eigenvalues, expected).slope, abs=0.05)


# --- Anderson acceleration


def test_anderson_reaches_the_same_limit_in_far_fewer_iterations() -> None:
    denoiser, _ = gaussian(QUICK)
    x_0, timestep = images(), 3400
    plain = iterate_noise(denoiser, SCHEDULE, x_0, timestep, IterationSettings(20_000, 1e-9))
    fast = iterate_noise(denoiser, SCHEDULE, x_0, timestep, IterationSettings(20_000, 1e-9, anderson_memory=8))
    limit = gaussian_fixed_point(denoiser, x_0, timestep)
    assert bool(plain.converged.all()) and bool(fast.converged.all())
    assert int(fast.iterations.max()) < int(plain.iterations.min()) / 8
    scale = float(limit.abs().max())
    assert float((plain.eps - limit).abs().max()) < 1e-4 * scale
    assert float((fast.eps - limit).abs().max()) < 1e-4 * scale


def test_anderson_solves_a_small_linear_problem_exactly() -> None:
    # With a memory of the number of different eigenvalues it is GMRES: one iteration more than there are of them.
    eigenvalues = torch.tensor([0.1, 0.5, 2.0]).double().repeat_interleave(4)
    denoiser, _ = gaussian(eigenvalues)
    x_0 = hashed_normal("small", (2, 12))
    found = iterate_noise(denoiser, SCHEDULE, x_0, 3000, IterationSettings(20, 1e-8, anderson_memory=3))
    assert int(found.iterations.max()) <= 5
    torch.testing.assert_close(found.eps, gaussian_fixed_point(denoiser, x_0, 3000), rtol=0, atol=1e-5)


# --- what is returned


def test_residuals_counts_and_the_tolerance() -> None:
    denoiser, _ = gaussian(QUICK)
    x_0 = near_and_far(denoiser)
    found = iterate_noise(denoiser, SCHEDULE, x_0, 2000, IterationSettings(60, 1e-4))
    first, second, third = found.iterations.tolist()
    assert 1 < first < second < third == 60
    assert found.residual.shape == (int(found.iterations.max()), 3)
    for row, count in enumerate(found.iterations.tolist()):
        made = found.residual[:count, row]
        assert bool(torch.isfinite(made).all()) and bool(found.residual[count:, row].isnan().all())
        assert bool((made[:-1] > 1e-4).all())
        assert bool(found.converged[row]) == (float(made[-1]) <= 1e-4)
        last = gaussian_fixed_point(denoiser, x_0, 2000, count)[row]
        torch.testing.assert_close(found.eps[row], last, rtol=1e-8, atol=1e-12)
        before = gaussian_fixed_point(denoiser, x_0, 2000, count - 1)[row]
        assert float(made[-1]) == pytest.approx(float((last - before).square().mean().sqrt()), rel=1e-6)
    assert not bool(found.converged[2])


@pytest.mark.parametrize("memory", [0, 3])
def test_no_image_depends_on_the_others_of_its_batch(memory: int) -> None:
    denoiser, _ = gaussian(QUICK)
    x_0 = near_and_far(denoiser)
    chosen = IterationSettings(60, 1e-3, memory)
    together = iterate_noise(denoiser, SCHEDULE, x_0, 2000, chosen)
    for row in range(3):
        alone = iterate_noise(denoiser, SCHEDULE, x_0[row : row + 1], 2000, chosen)
        assert int(alone.iterations[0]) == int(together.iterations[row])
        torch.testing.assert_close(alone.eps[0], together.eps[row], rtol=1e-6, atol=1e-9)


@given(batch=st.integers(0, 3), memory=st.integers(0, 2), single=st.booleans())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_shapes_and_dtypes(batch: int, memory: int, single: bool) -> None:
    denoiser, _ = gaussian()
    x_0 = images()[:batch].to(torch.float32 if single else torch.float64)
    found = iterate_noise(denoiser, SCHEDULE, x_0, 100, IterationSettings(5, 0.0, memory))
    assert found.eps.shape == x_0.shape and found.eps.dtype == x_0.dtype
    assert found.iterations.tolist() == [5] * batch and found.converged.shape == (batch,)
    assert found.residual.shape[1] == batch and found.residual.dtype == torch.float64


def test_the_start_and_the_global_randomness_are_left_alone() -> None:
    denoiser, _ = gaussian()
    start = hashed_normal("start", (3, 1, 8, 8))
    kept, state = start.clone(), torch.random.get_rng_state()
    iterate_noise(denoiser, SCHEDULE, images(), 100, IterationSettings(3), start)
    assert torch.equal(start, kept) and torch.equal(torch.random.get_rng_state(), state)


def test_wrong_arguments() -> None:
    denoiser, _ = gaussian()
    with pytest.raises(ValueError, match=r"timestep must be an integer in 0\.\.3999, got 4000"):
        iterate_noise(denoiser, SCHEDULE, images(), 4000)
    with pytest.raises(ValueError, match=r"start must have the shape of x_0, \(3, 1, 8, 8\), got \(2, 1, 8, 8\)"):
        iterate_noise(denoiser, SCHEDULE, images(), 10, start=images(2))
    with pytest.raises(ValueError, match="x_0 must be a float batch"):
        iterate_noise(denoiser, SCHEDULE, torch.zeros(2, 64, dtype=torch.int64), 10)
    with pytest.raises(ValueError, match="return the shape of its input"):
        iterate_noise(lambda x, t: x[:, :, :4], SCHEDULE, images(), 10)
    with pytest.raises(ValueError, match="at timestep 10, got NaN or infinity: the iteration diverges"):
        iterate_noise(lambda x, t: 1e200 * x, SCHEDULE, images(), 10)
    with pytest.raises(ValueError, match="max_iterations must be an integer of at least 1, got 0"):
        IterationSettings(max_iterations=0)
    with pytest.raises(ValueError, match="anderson_memory must be an integer of at least 0, got -1"):
        IterationSettings(anderson_memory=-1)
    with pytest.raises(ValueError, match="tolerance must be 0 or more and finite, got nan"):
        IterationSettings(tolerance=float("nan"))
