"""Each method against a literal transcription, closed forms and its own promises."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probediff.ddim import DDIMStep, ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.inversion import InversionSettings, Problem, State, invert, resample, sample
from probediff.inversion.newton import _SMALLEST_SLOPE
from probediff.noise import seeded_noise
from probediff.schedule import NoiseSchedule
from tests.reference import inversion_reference as reference

D = 12
SCHEDULE = NoiseSchedule.cosine(1000)
MIXING = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / D**0.5
NOISE = torch.randn(5, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
CONVENTIONS = ("openai", "diffusers")
EXACT = ("edict", "bdia", "belm")
ALL = ("ddim", "forward", "swap", "fixed_point", "renoise", "newton", *EXACT)


def smooth_eps(x: Tensor, timestep: Tensor) -> Tensor:
    """A nonlinear denoiser that couples the values and depends on the timestep."""
    share = (timestep.to(x.dtype) / 1000)[:, None]
    return 0.6 * share * x + 0.3 * torch.tanh(x @ MIXING.to(x.dtype) + share)


def smooth_eps_numpy(x: reference.Array, timestep: int) -> reference.Array:
    share = timestep / 1000
    return np.asarray(0.6 * share * x + 0.3 * np.tanh(x @ MIXING.numpy() + share))


def problem(model: Any = smooth_eps, **options: Any) -> Problem:
    defaults = {"schedule": SCHEDULE, "num_steps": 10, "clip": False, "clip_inversion": False}
    return Problem(model, **(defaults | options))


def settings(method: str, **options: Any) -> InversionSettings:
    return InversionSettings(method, **options)  # type: ignore[arg-type]


def ladder(of: Problem) -> reference.Ladder:
    return list(of.path.levels), [-1, *of.path.timesteps]


def by_row(function: Any, x: Tensor, *arguments: Any) -> Tensor:
    return torch.stack([torch.as_tensor(np.asarray(function(row.numpy(), *arguments))) for row in x])


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


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
        found = ours("newton", newton_iterations=3, newton_prior_weight=prior)
        close(found, theirs(reference.newton, 3, prior, _SMALLEST_SLOPE), 1e-5)


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
            found = invert(of, chosen, State(x_0), range(5))
            errors.append(float((resample(of, chosen, found).x - x_0).norm() / x_0.norm()))
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


def gaussian() -> tuple[GaussianDenoiser, Tensor, Tensor]:
    """A denoiser of float64 Gaussian data, its mean, and the symmetric square root of its covariance."""
    basis, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    root = basis @ torch.diag(torch.linspace(0.05, 1.2, D, dtype=torch.float64).sqrt()) @ basis.T
    mean = torch.linspace(-0.3, 0.4, D, dtype=torch.float64)
    return GaussianDenoiser(mean, root @ root, NoiseSchedule.cosine(4000)), mean, root


@pytest.mark.parametrize("method", EXACT)
def test_images_of_the_exact_samplers_tend_to_dewhitened_noise(method: str) -> None:
    denoiser, mean, root = gaussian()
    errors = []
    for num_steps in (50, 100, 200):
        of = problem(denoiser, schedule=NoiseSchedule.cosine(4000), num_steps=num_steps)
        errors.append(float((sample(of, settings(method), NOISE).x - mean - NOISE @ root).norm() / NOISE.norm()))
    for coarse, fine in itertools.pairwise(errors):
        assert fine < 0.6 * coarse, errors
    assert errors[-1] < 0.01, errors


@pytest.mark.parametrize("method", ["fixed_point", "renoise", "newton", "bdia"])
def test_latents_tend_to_whitened_images(method: str) -> None:
    denoiser, mean, root = gaussian()
    x_0 = mean + NOISE @ root
    errors = []
    for num_steps in (50, 100, 200):
        of = problem(denoiser, schedule=NoiseSchedule.cosine(4000), num_steps=num_steps)
        latent = invert(of, settings(method, newton_prior_weight=0.0), State(x_0), range(5)).x
        errors.append(float((latent - NOISE).norm() / NOISE.norm()))
    for coarse, fine in itertools.pairwise(errors):
        assert fine < 0.7 * coarse, errors
    assert errors[-1] < 0.03, errors


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 50])
def test_exact_methods_recover_noise_and_image(method: str, num_steps: int) -> None:
    of = problem(gaussian()[0], schedule=NoiseSchedule.cosine(4000), num_steps=num_steps)
    chosen = settings(method)
    state = sample(of, chosen, NOISE)
    inverted = invert(of, chosen, state, range(5))
    assert float((inverted.x - NOISE).abs().max()) < 1e-9
    assert float((resample(of, chosen, inverted).x - state.x).abs().max()) < 1e-12


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_reconstruct_a_users_image(method: str) -> None:
    of = problem(gaussian()[0], schedule=NoiseSchedule.cosine(4000), num_steps=20)
    image = torch.tanh(NOISE)
    inverted = invert(of, settings(method), State(image), range(5))
    assert inverted.partner is not None
    close(resample(of, settings(method), inverted).x, image)


def relative_error(of: Problem, chosen: InversionSettings, x_T: Tensor) -> float:
    state = sample(of, chosen, x_T)
    again = resample(of, chosen, invert(of, chosen, state, range(len(x_T)))).x
    return float((again - state.x).norm() / state.x.norm())


@pytest.fixture(scope="module")
def digits_noise() -> Tensor:
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_on_a_trained_network_implicit_methods_beat_ddim(
    network: nn.Module, digits_noise: Tensor, convention: str
) -> None:
    of = problem(network, schedule=NoiseSchedule.cosine(40), convention=convention)
    ddim = relative_error(of, settings("ddim"), digits_noise)
    assert ddim > 0.1
    assert relative_error(of, settings("newton"), digits_noise) < 0.7 * ddim
    plain = relative_error(of, settings("fixed_point"), digits_noise)
    assert plain < 0.1 * ddim
    assert relative_error(of, settings("fixed_point", anderson_memory=2), digits_noise) < 0.7 * plain
    assert relative_error(of, settings("renoise"), digits_noise) < 0.02 * ddim


@pytest.mark.parametrize("method", EXACT)
def test_on_a_trained_network_exact_methods_are_exact(
    network: nn.Module, network_float64: nn.Module, digits_noise: Tensor, method: str
) -> None:
    schedule, chosen = NoiseSchedule.cosine(40), settings(method)
    assert relative_error(problem(network, schedule=schedule), chosen, digits_noise) < 1e-4
    assert relative_error(problem(network_float64, schedule=schedule), chosen, digits_noise.double()) < 1e-12


def test_states_in_float64_with_a_float32_network_do_not_suffer_from_rounding(
    network: nn.Module, digits_noise: Tensor
) -> None:
    single = problem(network, schedule=NoiseSchedule.cosine(40), num_steps=20)
    mixed = dataclasses.replace(single, network_dtype=torch.float32)
    errors = []
    for of, x_T in ((single, digits_noise), (mixed, digits_noise.double())):
        inverted = invert(of, settings("belm"), sample(of, settings("belm"), x_T), range(12)).x
        assert inverted.dtype == x_T.dtype
        errors.append(float((inverted - x_T).abs().max()))
    assert errors[1] < 1e-3 * errors[0], errors
    assert errors[1] < 1e-6, errors


@pytest.mark.parametrize(
    ("method", "from_image"),
    [(name, image) for name in ALL for image in (False, True) if not (image and name == "swap")],
)
def test_evaluations_are_counted(method: str, from_image: bool) -> None:
    asked: list[int] = []

    def counted(x: Tensor, timestep: Tensor) -> Tensor:
        asked.append(int(timestep[0]))
        return smooth_eps(x, timestep)

    of, chosen = problem(counted, num_steps=6), settings(method, num_replaced=2, newton_iterations=3)
    sampling, inversion = chosen.evaluations(6, from_image)
    steps: list[DDIMStep] = []
    state = sample(of, chosen, NOISE, steps.append)
    assert len(asked) == len(steps) == sampling
    steps.clear()
    asked.clear()
    inverted = invert(of, chosen, State(NOISE) if from_image else state, range(5), steps.append)
    assert len(asked) == len(steps) == inversion
    assert [step.index for step in steps] == list(range(inversion))
    assert [step.timestep for step in steps] == asked
    assert not any(step.x.requires_grad or step.x_0.requires_grad for step in steps)
    if method not in ("renoise", "newton", "edict"):
        assert torch.equal(steps[-1].x, inverted.x)


@pytest.mark.parametrize("method", ALL)
def test_rows_do_not_depend_on_their_batch(method: str) -> None:
    of, chosen = problem(num_steps=6), settings(method, anderson_memory=2)
    whole = invert(of, chosen, sample(of, chosen, NOISE), range(5)).x
    parts = [
        invert(of, chosen, sample(of, chosen, NOISE[rows]), range(5)[rows]).x for rows in (slice(0, 2), slice(2, 5))
    ]
    close(torch.cat(parts), whole, 1e-12)
    empty = NOISE[:0]
    assert invert(of, chosen, sample(of, chosen, empty), range(0)).x.shape == empty.shape


@pytest.mark.parametrize("method", ALL)
def test_nothing_but_the_result_changes(network: nn.Module, digits_noise: Tensor, method: str) -> None:
    of, chosen = problem(network, schedule=NoiseSchedule.cosine(40), num_steps=4), settings(method)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    random_state, start = torch.get_rng_state(), digits_noise.clone().requires_grad_()
    state = sample(of, chosen, start)
    image = state.x.clone()
    inverted = invert(of, chosen, state, range(12))
    again = resample(of, chosen, inverted)
    assert torch.equal(state.x, image)
    assert torch.equal(start, digits_noise)
    assert not any(x.requires_grad for x in (state.x, inverted.x, again.x))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ddpm", {}, r"inversion.method must be one of ddim, .*, got 'ddpm'"),
        ("forward", {"num_replaced": 10}, r"inversion.num_replaced must be an integer in 0\.\.9 .* got 10"),
        ("forward", {"noise_seed": -1}, r"inversion.noise_seed must be an integer in 0\.\..* got -1"),
        ("swap", {"num_replaced": 11}, r"inversion.num_replaced must be an integer in 0\.\.10 .* got 11"),
        ("fixed_point", {"iterations": 0}, "inversion.iterations must be an integer of at least 1 .* got 0"),
        ("fixed_point", {"iterations": True}, "inversion.iterations must be an integer .* got True"),
        ("fixed_point", {"anderson_memory": -1}, "inversion.anderson_memory must be an integer of at least 0"),
        ("fixed_point", {"damping": 1.0}, r"inversion.damping must be at least 0 and below 1 .* got 1\.0"),
        ("renoise", {"renoise_iterations": -1}, "inversion.renoise_iterations must be"),
        ("renoise", {"renoise_average": 11}, r"inversion.renoise_average must be an integer in 1\.\.10 \(renoise"),
        ("newton", {"newton_iterations": 0}, "inversion.newton_iterations must be"),
        ("newton", {"newton_prior_weight": float("nan")}, "inversion.newton_prior_weight must be at least 0 .* nan"),
        ("edict", {"edict_mixing": 0.5}, r"inversion.edict_mixing must be above 0\.5 and at most 1 .* got 0\.5"),
        ("bdia", {"bdia_gamma": 0.0}, r"inversion.bdia_gamma must be above 0 and at most 1 .* got 0\.0"),
    ],
)
def test_bad_settings(method: str, options: dict[str, Any], message: str) -> None:
    def never(x: Tensor, timestep: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    with pytest.raises(ValueError, match=message):
        settings(method, **options).check(10)
    with pytest.raises(ValueError, match=message):
        sample(problem(never), settings(method, **options), NOISE)
    if method != "ddpm":
        settings("ddim", **options).check(10)


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_refuse_clipping(method: str) -> None:
    with pytest.raises(ValueError, match=f"'{method}' inverts its sampler exactly.*got clip=True .*; turn both off"):
        sample(problem(clip=True), settings(method), NOISE)
    with pytest.raises(ValueError, match="clip_inversion=True"):
        invert(problem(clip_inversion=True), settings(method), State(NOISE), range(5))
    settings(method).check(10)


def test_bad_states() -> None:
    with pytest.raises(ValueError, match=r"state.predictions must hold the 3 predictions .* got 0: method 'swap'"):
        invert(problem(), settings("swap"), State(NOISE), range(5))
    with pytest.raises(ValueError, match="indices must number the 5 images of the state, got 4"):
        invert(problem(), settings("ddim"), State(NOISE), range(4))
    with pytest.raises(
        ValueError, match=r"state.partner must have the shape of state.x, got \(4, 12\) beside \(5, 12\)"
    ):
        invert(problem(), settings("belm"), State(NOISE, NOISE[:4]), range(5))
    with pytest.raises(ValueError, match="the input must be a float tensor"):
        invert(problem(), settings("newton"), State(torch.zeros(5, D, dtype=torch.uint8)), range(5))
    with pytest.raises(ValueError, match=r"eps_model must return the shape of its input, \(5, 12\), got \(5, 3\)"):
        invert(problem(lambda x, t: x[:, :3]), settings("renoise"), State(NOISE), range(5))
    with pytest.raises(ValueError, match=r"num_steps must divide into 1\.\.1000, got 0"):
        sample(problem(num_steps=0), settings("bdia"), NOISE)
    with pytest.raises(ValueError, match="convention must be"):
        sample(problem(convention="edm"), settings("belm"), NOISE)
