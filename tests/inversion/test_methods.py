"""Each method against a literal transcription and against the sampler that it inverts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from probediff.ddim import DDIMStep, ddim_invert, ddim_sample
from probediff.inversion import State, invert, resample, sample
from probediff.inversion.newton import _SMALLEST_SLOPE
from probediff.noise import seeded_noise
from tests.inversion.toys import (
    CONVENTIONS,
    NOISE,
    SCHEDULE,
    D,
    by_row,
    close,
    ladder,
    problem,
    relative_error,
    settings,
    smooth_eps,
    smooth_eps_numpy,
)
from tests.reference import inversion_reference as reference


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_is_the_existing_one_bit_for_bit(convention: str, clip: bool) -> None:
    of = problem(convention=convention, clip=clip, clip_inversion=not clip)
    for method in ("ddim", "forward", "swap", "fixed_point", "renoise", "newton"):
        x_0 = sample(of, settings(method), NOISE).x
        assert torch.equal(x_0, ddim_sample(smooth_eps, SCHEDULE, NOISE, 10, of.convention, clip))
    latent = invert(of, settings("ddim"), State(x_0), range(5)).x
    assert torch.equal(latent, ddim_invert(smooth_eps, SCHEDULE, x_0, 10, of.convention, not clip))
    for method in ("forward", "swap"):
        none_replaced = invert(of, settings(method, num_replaced=0), State(x_0), range(5)).x
        assert torch.equal(none_replaced, latent)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_forward_replaces_the_first_steps_by_noise_of_its_own(convention: str) -> None:
    of = problem(convention=convention)
    indices = [4, 0, 9, 2, 7]
    latent = invert(of, settings("forward", num_replaced=3, noise_seed=11), State(NOISE), indices).x
    # The level that three steps of ddim_invert reach, and its remaining seven steps.
    reached: list[DDIMStep] = []
    ddim_invert(smooth_eps, SCHEDULE, NOISE, 10, of.convention, False, reached.append)
    level = reached[2].alpha_bar
    noise = seeded_noise(11, indices, (D,)).double()
    x = level**0.5 * NOISE + (1 - level) ** 0.5 * noise
    before = level
    for step in reached[3:]:
        eps = smooth_eps(x, torch.full((5,), step.timestep))
        x_0 = (x - (1 - before) ** 0.5 * eps) / before**0.5
        x = step.alpha_bar**0.5 * x_0 + (1 - step.alpha_bar) ** 0.5 * eps
        before = step.alpha_bar
    close(latent, x)


def test_swapping_every_prediction_inverts_the_diffusers_sampler_exactly() -> None:
    of = problem(convention="diffusers")
    errors = []
    for num_replaced in (0, 3, 6, 10):
        chosen = settings("swap", num_replaced=num_replaced)
        state = sample(of, chosen, NOISE)
        assert len(state.predictions) == num_replaced
        errors.append(float((invert(of, chosen, state, range(5)).x - NOISE).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_the_swapped_noise_is_what_the_clipped_sampler_moved_along() -> None:
    of, large = problem(clip=True), 3 * NOISE
    path: list[DDIMStep] = []
    state = sample(of, settings("swap", num_replaced=4), large, path.append)
    levels = of.path.levels
    for i, eps in enumerate(state.predictions):
        step = path[-1 - i]
        moved = levels[i] ** 0.5 * step.x_0 + (1 - levels[i]) ** 0.5 * eps
        close(step.x, moved)
    assert any(float(step.x_0.abs().max()) == 1 for step in path[-4:])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_implicit_methods_equal_their_literal_transcriptions(convention: str) -> None:
    of = problem(convention=convention, num_steps=5)
    rungs = ladder(of)
    x = torch.tanh(NOISE)

    def ours(method: str, **options: Any) -> Tensor:
        return invert(of, settings(method, **options), State(x), range(5)).x

    def theirs(function: Any, *arguments: Any) -> Tensor:
        return by_row(lambda row: function(smooth_eps_numpy, rungs, row, *arguments), x)

    close(ours("fixed_point", iterations=4, damping=0.3), theirs(reference.fixed_point, 4, 0.3))
    accelerated = ours("fixed_point", iterations=4, anderson_memory=2)
    close(accelerated, theirs(reference.anderson, 4, 2), 1e-6)
    assert float((accelerated - ours("fixed_point", iterations=4)).abs().max()) > 1e-5
    close(ours("renoise", renoise_iterations=4, renoise_average=3), theirs(reference.renoise, 4, 3))
    # With the heavy guidance later estimates are worse than earlier ones, which are to be kept.
    for prior in (0.0, 0.1, 2.0):
        latent = ours("newton", newton_iterations=3, newton_prior_weight=prior)
        close(latent, theirs(reference.newton, 3, prior, _SMALLEST_SLOPE), 1e-5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_exact_methods_equal_their_literal_transcriptions(convention: str) -> None:
    of = problem(convention=convention, num_steps=7)
    rungs = ladder(of)
    state = sample(of, settings("edict", edict_mixing=0.9), NOISE)
    expected = by_row(lambda row: reference.edict_sample(smooth_eps_numpy, rungs, row, 0.9), NOISE)
    close(torch.stack([state.x, state.partner], dim=1), expected)
    latent = invert(of, settings("edict", edict_mixing=0.9), State(NOISE), range(5))
    expected = by_row(lambda row: reference.edict_invert(smooth_eps_numpy, rungs, row, row, 0.9), NOISE)
    close(torch.stack([latent.x, latent.partner], dim=1), expected)
    state = sample(of, settings("bdia", bdia_gamma=0.7), NOISE)
    expected = by_row(lambda row: reference.bdia_sample(smooth_eps_numpy, rungs, row, 0.7)[-2:], NOISE)
    close(torch.stack([state.partner, state.x], dim=1), expected)
    state = sample(of, settings("belm"), NOISE)
    expected = by_row(lambda row: reference.belm_sample(smooth_eps_numpy, rungs, row)[-2:], NOISE)
    close(torch.stack([state.partner, state.x], dim=1), expected)

    def from_image(row: reference.Array) -> list[reference.Array]:
        x_1 = reference.implicit_right_side(smooth_eps_numpy, rungs, 1, row, row)
        return reference.belm_invert(smooth_eps_numpy, rungs, row, x_1)[-2:]

    latent = invert(of, settings("belm"), State(NOISE), range(5))
    close(torch.stack([latent.partner, latent.x], dim=1), by_row(from_image, NOISE), 1e-8)


def test_fixed_points_are_preimages_of_the_clipped_sampler_too() -> None:
    for convention in CONVENTIONS:
        of = problem(convention=convention, clip=True, clip_inversion=True, num_steps=20)
        x_0 = sample(of, settings("ddim"), 1.5 * NOISE).x
        assert float((x_0.abs() == 1).double().mean()) > 0.05
        errors = []
        for iterations in (1, 8, 64):
            chosen = settings("fixed_point", iterations=iterations)
            latent = invert(of, chosen, State(x_0), range(5))
            errors.append(float((resample(of, chosen, latent).x - x_0).norm() / x_0.norm()))
        assert errors[0] > 3 * errors[1] > 9 * errors[2], errors
        assert errors[2] < 0.02 * relative_error(of, settings("ddim"), 1.5 * NOISE)


@pytest.mark.parametrize("method", ["ddim", "forward", "fixed_point", "renoise", "newton"])
def test_inversion_clips_by_its_own_setting(method: str) -> None:
    image = State(1.5 * torch.tanh(NOISE))
    latents = {
        (clip, clip_inversion): invert(
            problem(clip=clip, clip_inversion=clip_inversion), settings(method), image, range(5)
        ).x
        for clip, clip_inversion in itertools.product([False, True], repeat=2)
    }
    assert torch.equal(latents[True, False], latents[False, False])
    assert torch.equal(latents[True, True], latents[False, True])
    assert float((latents[True, True] - latents[False, False]).abs().max()) > 1e-2


def test_newton_takes_gradients_only_where_it_uses_them() -> None:
    with_gradient: list[bool] = []

    def watched(x: Tensor, timestep: Tensor) -> Tensor:
        with_gradient.append(x.requires_grad and torch.is_grad_enabled())
        assert x.requires_grad == torch.is_grad_enabled()
        return smooth_eps(x, timestep)

    invert(problem(watched, num_steps=2), settings("newton", newton_iterations=3), State(NOISE), range(5))
    assert with_gradient == 2 * [True, True, False]
