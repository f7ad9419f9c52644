"""How near the methods come to the noise and the image: closed forms, exactness, a trained network."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from probediff.inversion import State, invert, resample, sample
from probediff.schedule import NoiseSchedule
from tests.inversion.toys import CONVENTIONS, EXACT, NOISE, close, gaussian, problem, relative_error, settings


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
