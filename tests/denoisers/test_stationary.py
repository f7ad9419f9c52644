"""The stationary Gaussian denoiser is the Gaussian denoiser of a circulant covariance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probediff.denoisers import GaussianDenoiser
from probediff.denoisers.stationary import StationaryGaussian
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import hashed_normal

SCHEDULE = NoiseSchedule.cosine(100)


def covariance(gaussian: StationaryGaussian, height: int, width: int) -> Tensor:
    """(D, D) of all pixels: what its spectrum does to each unit image."""
    channels = len(gaussian.mean)
    unit = torch.eye(channels * height * width, dtype=torch.float64).reshape(-1, channels, height, width)
    waves = torch.fft.rfft2(unit, norm="ortho").permute(2, 3, 1, 0)
    return torch.fft.irfft2((gaussian.spectrum @ waves).permute(3, 2, 0, 1), s=(height, width), norm="ortho").flatten(1)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.sampled_from([0, 50, 99]))
def test_it_is_the_gaussian_of_its_covariance(
    channels: int, height: int, width: int, count: int, timestep: int
) -> None:
    images = hashed_normal("images", (count, channels, height, width)).cumsum(-1) / 3
    gaussian = StationaryGaussian.fit(images)
    mean = gaussian.mean.expand(channels, height, width).flatten()
    full = GaussianDenoiser(mean, covariance(gaussian, height, width), SCHEDULE)
    x_t = hashed_normal("x_t", (2, channels, height, width))
    expected = full(x_t, torch.full((2,), timestep))
    found = gaussian.eps(x_t, float(SCHEDULE.alpha_bar[timestep]))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_it_finds_the_colours_and_the_power_of_white_images() -> None:
    images = 0.5 + 0.1 * hashed_normal("white", (500, 2, 6, 5))
    gaussian = StationaryGaussian.fit(images)
    assert gaussian.mean.flatten().tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    torch.testing.assert_close(gaussian.spectrum.mean((0, 1)).real, 0.01 * torch.eye(2).double(), rtol=0, atol=1e-3)
