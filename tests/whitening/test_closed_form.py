"""The closed forms of the Gaussian denoiser's maps against the denoiser itself, asked step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.measures.whitening import WhiteningTransform
from probediff.models import ProbeModel
from probediff.schedule import NoiseSchedule
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.pairs import NetworkNoises

SCHEDULE = NoiseSchedule.cosine(40)


@pytest.mark.parametrize("convention", ["openai", "diffusers"])
def test_closed_maps_are_those_of_the_denoiser(convention: Any) -> None:
    x = torch.randn(90, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.cumsum(dim=-1) + 0.3
    mean, covariance = x.flatten(1).mean(dim=0), torch.cov(x.flatten(1).T)
    gaussian = GaussianNoises(WhiteningTransform.from_covariance(mean, covariance), SCHEDULE, convention)
    denoiser = GaussianDenoiser(mean, covariance, SCHEDULE)
    noises = NetworkNoises(ProbeModel(denoiser, SCHEDULE, (2, 3, 3), 0, {}, clip=False), convention, batch_size=37)
    tight = {"rtol": 1e-5, "atol": 1e-5}
    one, other = gaussian.iterates(x, 30, [1, 7]), noises.iterates(x, 30, [1, 7])
    for count in (1, 7):
        torch.testing.assert_close(one.eps[count].float(), other.eps[count], **tight)
    torch.testing.assert_close(
        gaussian.latents(x, 8), ddim_invert(denoiser, SCHEDULE, x, 8, convention, clip=False), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        gaussian.samples(x, 8), ddim_sample(denoiser, SCHEDULE, x, 8, convention, clip=False), rtol=1e-9, atol=1e-9
    )
    solved = np.linalg.solve(covariance.numpy(), (x.flatten(1) - mean).numpy().T).T
    a = float(SCHEDULE.alpha_bar[30])
    np.testing.assert_allclose(gaussian.limit(x, 30).flatten(1), math.sqrt((1 - a) / a) * solved, rtol=1e-7)
