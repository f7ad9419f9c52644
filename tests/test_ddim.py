"""Samplers against improved-diffusion's numbers, diffusers' schedulers, and closed forms for Gaussian data."""

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from probediff.ddim import DDIMStep, ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import analytic_eps, hashed_images, hashed_normal, load_golden

T = 4000
SCHEDULE = NoiseSchedule.cosine(T)
GOLDEN = load_golden("ddim")["cases"]
SHAPE = (2, 3, 4, 4)


def eps_model(x: Tensor, timestep: Tensor) -> Tensor:
    return analytic_eps(x, timestep.float() * (1000.0 / T))


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_openai_convention_equals_improved_diffusion(name: str) -> None:
    direction, spacing, clipped, dtype = name.split("/")
    path: list[float] = []
    run, start = {
        "sample": (ddim_sample, hashed_normal("ddim_x_T", SHAPE)),
        "invert": (ddim_invert, hashed_images("ddim_x_0", SHAPE)),
    }[direction]
    final = run(
        eps_model,
        SCHEDULE,
        start.to(getattr(torch, dtype)),
        num_steps=int(spacing.removeprefix("ddim")),
        clip=clipped == "clipped",
        on_step=lambda step: path.append(float(step.x[0, 0, 0, 0])),
    )
    rtol = {"float32": 1e-4, "float64": 1e-7}[dtype]
    expected = torch.tensor(GOLDEN[name]["final"], dtype=torch.float64)
    scale = float(expected.abs().max())
    torch.testing.assert_close(final.double().flatten(), expected, rtol=rtol, atol=rtol * scale)
    if "path_of_first_element" in GOLDEN[name]:
        torch.testing.assert_close(path, GOLDEN[name]["path_of_first_element"], rtol=rtol, atol=rtol * scale)


def diffusers_loop(scheduler: DDIMScheduler | DDIMInverseScheduler, x: Tensor, num_steps: int) -> Tensor:
    scheduler.set_timesteps(num_steps)
    for timestep in scheduler.timesteps:
        eps = eps_model(x, torch.full((len(x),), int(timestep)))
        x = scheduler.step(eps, int(timestep), x).prev_sample
    return x


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("num_steps", [7, 50, 100])
def test_diffusers_convention_equals_diffusers(num_steps: int, clip: bool) -> None:
    options = {"num_train_timesteps": T, "trained_betas": SCHEDULE.betas.numpy(), "clip_sample": clip}
    x_T, x_0 = hashed_normal("ddim_x_T", SHAPE).float(), hashed_images("ddim_x_0", SHAPE).float()
    ours = ddim_sample(eps_model, SCHEDULE, x_T, num_steps, "diffusers", clip)
    theirs = diffusers_loop(DDIMScheduler(**options), x_T, num_steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    ours = ddim_invert(eps_model, SCHEDULE, x_0, num_steps, "diffusers", clip)
    theirs = diffusers_loop(DDIMInverseScheduler(**options), x_0, num_steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_the_conventions_and_clipping_differ() -> None:
    x_0 = hashed_images("ddim_x_0", SHAPE).double()
    latents = [
        ddim_invert(eps_model, SCHEDULE, x_0, 10, convention, clip)  # type: ignore[arg-type]
        for convention in ("openai", "diffusers")
        for clip in (True, False)
    ]
    for k, first in enumerate(latents):
        for second in latents[k + 1 :]:
            assert float((first - second).abs().max()) > 1e-2


def toy_covariance(dimension: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    basis, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.linspace(0.05, 1.2, dimension, dtype=torch.float64)) @ basis.T


def symmetric_power(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**power) @ vectors.T


@pytest.fixture(scope="module")
def gaussian() -> tuple[GaussianDenoiser, Tensor, Tensor, Tensor]:
    mean, covariance = torch.linspace(-0.3, 0.4, 12, dtype=torch.float64), toy_covariance(12)
    x_T = torch.randn(64, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return GaussianDenoiser(mean, covariance, SCHEDULE), mean, covariance, x_T


@pytest.mark.parametrize("convention", ["openai", "diffusers"])
def test_round_trip_error_falls_at_first_order(gaussian: tuple, convention: str) -> None:
    denoiser, _, _, x_T = gaussian
    errors = []
    for num_steps in (20, 40, 80, 200, 400):
        x_0 = ddim_sample(denoiser, SCHEDULE, x_T, num_steps, convention, clip=False)
        latent = ddim_invert(denoiser, SCHEDULE, x_0, num_steps, convention, clip=False)
        errors.append((num_steps, float((latent - x_T).norm() / x_T.norm())))
    for (steps, error), (more_steps, smaller) in itertools.pairwise(errors):
        order = torch.log(torch.tensor(error / smaller)) / torch.log(torch.tensor(more_steps / steps))
        assert 0.85 < float(order) < 1.25, errors


def test_sampling_tends_to_the_square_root_of_the_covariance(gaussian: tuple) -> None:
    denoiser, mean, covariance, x_T = gaussian
    x_0 = ddim_sample(denoiser, SCHEDULE, x_T, 4000, clip=False)
    expected = mean + x_T @ symmetric_power(covariance, 0.5)
    assert float((x_0 - expected).norm() / expected.norm()) < 2e-3


def test_inversion_tends_to_the_inverse_square_root_of_the_covariance(gaussian: tuple) -> None:
    denoiser, mean, covariance, _ = gaussian
    x_0 = mean + torch.randn(64, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64) @ symmetric_power(
        covariance, 0.5
    )
    expected = (x_0 - mean) @ symmetric_power(covariance, -0.5)
    errors = []
    for num_steps in (500, 1000, 2000, 4000):
        latent = ddim_invert(denoiser, SCHEDULE, x_0, num_steps, clip=False)
        errors.append(float((latent - expected).norm() / expected.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 4e-3, errors


def test_on_step_sees_the_whole_trajectory() -> None:
    steps: list[DDIMStep] = []
    x_T = hashed_normal("ddim_x_T", SHAPE)
    x_0 = ddim_sample(eps_model, SCHEDULE, x_T, 10, on_step=steps.append)
    assert [step.index for step in steps] == list(range(10))
    assert [step.timestep for step in steps] == list(range(3600, -1, -400))
    assert steps[-1].alpha_bar == 1.0
    assert torch.equal(steps[-1].x, x_0)
    assert all(float(step.x_0.abs().max()) <= 1 for step in steps)
    ddim_invert(eps_model, SCHEDULE, x_0, 10, on_step=steps.append)
    assert [step.timestep for step in steps[10:]] == list(range(0, 4000, 400))
    assert steps[-1].alpha_bar == 0.0


def test_no_gradient_is_kept_and_the_dtype_stays() -> None:
    for dtype in (torch.float32, torch.float64):
        x_T = hashed_normal("ddim_x_T", SHAPE).to(dtype).requires_grad_()
        assert not ddim_sample(eps_model, SCHEDULE, x_T, 4).requires_grad
        assert ddim_sample(eps_model, SCHEDULE, x_T, 4).dtype == dtype


def test_bad_arguments() -> None:
    x = hashed_normal("ddim_x_T", SHAPE)
    with pytest.raises(ValueError, match=r"num_steps must divide into 1\.\.4000, got 0"):
        ddim_sample(eps_model, SCHEDULE, x, 0)
    with pytest.raises(ValueError, match="convention must be"):
        ddim_invert(eps_model, SCHEDULE, x, 10, "edm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"eps_model must return the shape of its input, \(2, 3, 4, 4\), got \(2, 1"):
        ddim_sample(lambda x, t: x[:, :1], SCHEDULE, x, 10)
    with pytest.raises(ValueError, match="the input must be a float tensor"):
        ddim_sample(eps_model, SCHEDULE, torch.zeros(SHAPE, dtype=torch.uint8), 10)
