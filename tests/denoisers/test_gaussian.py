"""The closed-form denoiser of Gaussian data against other ways to get the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import hashed_images, hashed_normal

COSINE = NoiseSchedule.cosine(4000)
SCHEDULES = {"cosine": COSINE, "linear": NoiseSchedule.linear(1000)}


def covariance_of(name: str, dimensions: int, rank: int | None = None) -> Tensor:
    factor = hashed_normal(name, (dimensions, rank or dimensions)) / dimensions**0.5
    return factor @ factor.T


def eps_by_solve(x: Tensor, timestep: int, mean: Tensor, covariance: Tensor, schedule: NoiseSchedule) -> Tensor:
    """One flattened image: sqrt(1 - a) (a S + (1 - a) I)^-1 (x - sqrt(a) mu), literally."""
    a = float(schedule.alpha_bar[timestep])
    matrix = a * covariance.numpy() + (1 - a) * np.eye(len(mean))
    residual = x.double().numpy() - np.sqrt(a) * mean.numpy()
    return torch.from_numpy(np.sqrt(1 - a) * np.linalg.solve(matrix, residual))


@given(dimensions=st.integers(1, 12), batch=st.integers(0, 4), name=st.sampled_from(["cosine", "linear"]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_equals_the_formula(dimensions: int, batch: int, name: str) -> None:
    schedule = SCHEDULES[name]
    mean, covariance = hashed_normal("mean", (dimensions,)), covariance_of("cov", dimensions)
    x = hashed_normal("x", (batch, dimensions))
    timestep = torch.tensor([0, 300, 700, len(schedule) - 1])[:batch]
    eps = GaussianDenoiser(mean, covariance, schedule)(x, timestep)
    assert eps.shape == x.shape
    for image, t, row in zip(x, timestep.tolist(), eps, strict=True):
        torch.testing.assert_close(row, eps_by_solve(image, t, mean, covariance, schedule), rtol=1e-8, atol=1e-10)


def test_is_the_least_squares_prediction_of_the_noise() -> None:
    # Drawn data and noise, regressed: knows nothing of the closed form.
    generator = torch.Generator().manual_seed(0)
    mean, covariance = torch.tensor([0.5, -1.0, 0.2]).double(), covariance_of("cov", 3)
    x_0 = mean + torch.randn(200_000, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    eps = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    a = COSINE.alpha_bar[1800]
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    design = torch.cat([x_t, torch.ones(len(x_t), 1, dtype=torch.float64)], dim=1)
    coefficients = torch.linalg.lstsq(design, eps).solution
    probe = torch.eye(4, 3, dtype=torch.float64)
    denoiser = GaussianDenoiser(mean, covariance, COSINE)
    expected = torch.cat([probe, torch.ones(4, 1, dtype=torch.float64)], dim=1) @ coefficients
    torch.testing.assert_close(denoiser(probe, torch.full((4,), 1800)), expected, rtol=0, atol=0.015)


def test_images_and_dtypes() -> None:
    denoiser = GaussianDenoiser(hashed_normal("mean", (12,)), covariance_of("cov", 12), COSINE)
    images, timestep = hashed_normal("x", (2, 3, 2, 2)), torch.tensor([5, 3500])
    expected = denoiser(images.flatten(1), timestep).reshape(images.shape)
    assert torch.equal(denoiser(images, timestep), expected)
    single = denoiser(images.float(), timestep)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)
    in_single_precision = denoiser.float()(images.float(), timestep)
    assert in_single_precision.dtype == torch.float32
    torch.testing.assert_close(in_single_precision.double(), expected, rtol=0, atol=1e-4)
    assert denoiser(images.to(memory_format=torch.channels_last).float(), timestep).equal(in_single_precision)


def test_singular_covariance_is_allowed() -> None:
    mean, covariance = torch.zeros(6).double(), covariance_of("cov", 6, rank=2)
    x = hashed_normal("x", (1, 6))
    eps = GaussianDenoiser(mean, covariance, COSINE)(x, torch.tensor([10]))
    torch.testing.assert_close(eps[0], eps_by_solve(x[0], 10, mean, covariance, COSINE), rtol=1e-6, atol=1e-8)
    only_noise = GaussianDenoiser(mean, torch.zeros(6, 6), COSINE)(x, torch.tensor([10]))
    torch.testing.assert_close(only_noise, x / (1 - COSINE.alpha_bar[10]).sqrt(), rtol=1e-12, atol=0)


def test_covariance_with_the_rounding_of_float32_is_accepted() -> None:
    covariance = covariance_of("cov", 40, rank=5).float()
    covariance[0, 1] += 1e-7
    denoiser = GaussianDenoiser(torch.zeros(40), covariance, COSINE)
    assert denoiser.eigenvalues.min() >= 0


def test_sampling_multiplies_by_the_root_of_the_covariance() -> None:
    # The continuous limit of DDIM is exact ZCA de-whitening; the error falls at first order in 1 / num_steps.
    mean, covariance = hashed_normal("mean", (4,)) / 4, covariance_of("cov", 4) + 0.1 * torch.eye(4).double()
    denoiser = GaussianDenoiser(mean, covariance, COSINE)
    x_T = hashed_normal("x_T", (5, 4))
    values, vectors = np.linalg.eigh(covariance.numpy())
    expected = mean + x_T @ torch.from_numpy(vectors @ np.diag(values**0.5) @ vectors.T)
    steps = (100, 400)
    errors = [float((ddim_sample(denoiser, COSINE, x_T, n, clip=False) - expected).norm()) for n in steps]
    assert errors[1] < 0.03 * float(expected.norm())
    assert errors[1] < 0.5 * errors[0]
    latents = [ddim_invert(denoiser, COSINE, expected, n, convention="diffusers", clip=False) for n in steps]
    inversion_errors = [float((latent - x_T).norm()) for latent in latents]
    assert inversion_errors[1] < 0.03 * float(x_T.norm())
    assert inversion_errors[1] < 0.5 * inversion_errors[0]


@pytest.mark.parametrize("num_images", [2, 50, 1025])
def test_fit_estimates_the_moments(num_images: int) -> None:
    images = 100 + hashed_images("images", (num_images, 2, 3, 2))
    denoiser = GaussianDenoiser.fit(images.float(), COSINE)
    flat = images.float().flatten(1).double().numpy()
    covariance = denoiser.eigenvectors @ torch.diag(denoiser.eigenvalues) @ denoiser.eigenvectors.T
    np.testing.assert_allclose(denoiser.mean.numpy(), flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), np.cov(flat, rowvar=False), rtol=0, atol=1e-11)


def test_does_not_keep_the_callers_tensors() -> None:
    mean, covariance = torch.zeros(3).double(), torch.eye(3).double()
    denoiser = GaussianDenoiser(mean, covariance, COSINE)
    x, timestep = hashed_normal("x", (1, 3)), torch.tensor([2000])
    before = denoiser(x, timestep)
    mean.fill_(7)
    covariance.fill_(7)
    assert torch.equal(denoiser(x, timestep), before)
    assert {"mean", "eigenvalues", "eigenvectors"} <= set(denoiser.state_dict())


def test_a_decomposed_covariance_gives_the_same_denoiser() -> None:
    mean, covariance = hashed_normal("mean", (12,)), covariance_of("cov", 12)
    values, vectors = np.linalg.eigh(covariance.numpy())
    order = np.argsort(values)[::-1].copy()
    denoiser = GaussianDenoiser.from_eigenbasis(
        mean, torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order]), COSINE
    )
    x, timestep = hashed_normal("x", (3, 3, 2, 2)), torch.tensor([5, 1800, 3500])
    torch.testing.assert_close(
        denoiser(x, timestep), GaussianDenoiser(mean, covariance, COSINE)(x, timestep), rtol=1e-8, atol=1e-10
    )
    with pytest.raises(ValueError, match=r"\(D,\), \(D,\) and \(D, D\), got \(12,\), \(3,\), \(12, 12\)"):
        GaussianDenoiser.from_eigenbasis(mean, torch.ones(3), torch.eye(12), COSINE)
    with pytest.raises(ValueError, match="eigenvalues must be 0 or more, got -1"):
        GaussianDenoiser.from_eigenbasis(torch.zeros(2), torch.tensor([1.0, -1.0]), torch.eye(2), COSINE)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(3), torch.eye(4), r"same D >= 1, got \(3,\) and \(4, 4\)"),
        (torch.zeros(1, 3), torch.eye(3), r"same D >= 1, got \(1, 3\) and \(3, 3\)"),
        (torch.zeros(0), torch.zeros(0, 0), r"same D >= 1, got \(0,\) and \(0, 0\)"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.4, 1.0]]), r"covariance must be symmetric.*up to 0.1"),
        (torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), r"positive semi-definite, got the eigenvalue -1 "),
        (torch.zeros(2), -torch.eye(2), r"positive semi-definite, got the eigenvalue -1 "),
        (torch.zeros(2), torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]), r"must be finite"),
        (torch.tensor([0.0, float("inf")]), torch.eye(2), r"must be finite"),
    ],
)
def test_wrong_moments(mean: Tensor, covariance: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianDenoiser(mean, covariance, COSINE)


@pytest.mark.parametrize("shape", [(2, 11), (12,), (2, 12, 1), (2, 3, 2, 3), (0, 5)])
def test_wrong_image_shape(shape: tuple[int, ...]) -> None:
    denoiser = GaussianDenoiser(torch.zeros(12), torch.eye(12), COSINE)
    with pytest.raises(ValueError, match=r"x must be \(B, 12\) or \(B, C, H, W\) with C \* H \* W = 12, got \("):
        denoiser(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64))


def test_wrong_timesteps_and_images() -> None:
    denoiser = GaussianDenoiser(torch.zeros(2), torch.eye(2), COSINE)
    with pytest.raises(ValueError, match=r"timestep must be \(3,\), got \(1,\)"):
        denoiser(torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"images must be floating point in \[-1, 1\], got torch.uint8"):
        GaussianDenoiser.fit(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), COSINE)
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\) with N >= 2, got \(1, 1, 2, 2\)"):
        GaussianDenoiser.fit(torch.zeros(1, 1, 2, 2), COSINE)
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\) with N >= 2, got \(5, 4\)"):
        GaussianDenoiser.fit(torch.zeros(5, 4), COSINE)
