"""Looking at a model leaves no traces, and a model says what samplers ask."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from probediff.denoisers import GaussianDenoiser
from probediff.models import ProbeModel
from probediff.models.base import undisturbed
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_module


def test_undisturbed_restores_every_flag_and_random_state() -> None:
    module = tiny_module().train()
    module.eps_model.unet.middle_block.eval()
    modes = [part.training for part in module.modules()]
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with pytest.raises(KeyError), undisturbed(module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()
        raise KeyError
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert torch.is_grad_enabled()


def test_a_model_predicts_image_and_noise_at_one_timestep_or_one_a_row() -> None:
    schedule = NoiseSchedule.cosine(40)
    denoiser = GaussianDenoiser(torch.zeros(64), torch.diag(torch.linspace(0.1, 2, 64)), schedule)
    model = ProbeModel(denoiser, schedule, (1, 8, 8), 0, {})
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    a = float(schedule.alpha_bar[7])
    x_0, eps = model.predict(x, 7)
    torch.testing.assert_close(a**0.5 * x_0 + (1 - a) ** 0.5 * eps, x)
    torch.testing.assert_close(eps, denoiser(x, torch.full((5,), 7)))
    rows = model.predict(x, torch.tensor([7, 0, 7, 39, 1]))
    assert rows[0].dtype == torch.float32
    torch.testing.assert_close(rows[0][[0, 2]], x_0[[0, 2]])
    torch.testing.assert_close(rows[1][3:4], denoiser(x[3:4], torch.tensor([39])))
    assert torch.equal(model.pixels(x), x)
