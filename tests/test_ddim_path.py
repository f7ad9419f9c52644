"""Walks between levels: from end to end those of `ddim`, in pieces the same, and with the exact answer in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from probediff.ddim import DDIMPath, as_predict, ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.schedule import Convention, NoiseSchedule
from tests.reference.golden_inputs import hashed_normal

SCHEDULE = NoiseSchedule.cosine(1000)
VARIANCE = torch.logspace(0.5, -2, 12).double()
MODEL = GaussianDenoiser(torch.linspace(-0.5, 0.5, 12), torch.diag(VARIANCE), SCHEDULE)
PREDICT = as_predict(MODEL, SCHEDULE)
CONVENTIONS: tuple[Convention, ...] = ("openai", "diffusers")


def start(name: str = "start") -> Tensor:
    return hashed_normal(name, (5, 3, 2, 2))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_from_end_to_end_it_is_the_sampler(convention: Convention, clip: bool) -> None:
    path = DDIMPath.of(SCHEDULE, 20, convention, clip)
    assert len(path) == 20
    expected = ddim_sample(MODEL, SCHEDULE, start(), 20, convention, clip)
    torch.testing.assert_close(path.sample(PREDICT, start()), expected, rtol=0, atol=0)


def test_from_end_to_end_it_is_the_inversion_but_for_openais_last_step() -> None:
    images = 0.3 * start("images")
    found = DDIMPath.of(SCHEDULE, 20, "diffusers", True).invert(PREDICT, images)
    torch.testing.assert_close(found, ddim_invert(MODEL, SCHEDULE, images, 20, "diffusers", False), rtol=0, atol=0)
    states: list[Tensor] = []
    ddim_invert(MODEL, SCHEDULE, images, 20, "openai", False, on_step=lambda step: states.append(step.x))
    path = DDIMPath.of(SCHEDULE, 20, "openai", True)
    assert torch.equal(path.invert(PREDICT, images, 1), images)
    for num_steps in (2, 11, 20):
        torch.testing.assert_close(path.invert(PREDICT, images, num_steps), states[num_steps - 2], rtol=0, atol=0)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("num_steps", [100, 250, 500])
def test_half_way_it_is_the_exact_flow_of_gaussian_data(convention: Convention, num_steps: int) -> None:
    path = DDIMPath.of(SCHEDULE, 500, convention, False)
    a = path.alpha_bar[num_steps - 1]
    x = start()
    mean, std = MODEL.mean.reshape(3, 2, 2), VARIANCE.sqrt().reshape(3, 2, 2)
    spread = (a * std**2 + 1 - a).sqrt()
    expected = mean + std / spread * (x - a**0.5 * mean)
    torch.testing.assert_close(path.sample(PREDICT, x, num_steps), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(path.invert(PREDICT, expected, num_steps), x, rtol=0, atol=0.2)


def test_the_level_of_an_edit() -> None:
    path = DDIMPath.of(SCHEDULE, 50, "openai", True)
    assert [path.steps_for(strength) for strength in (0.001, 0.3, 0.5, 1.0)] == [1, 15, 25, 50]
    a = float(SCHEDULE.alpha_bar[24 * 20])
    noised = path.noised(start(), start("noise"), 25)
    torch.testing.assert_close(noised, a**0.5 * start() + (1 - a) ** 0.5 * start("noise"))
    for strength in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"strength must lie in \(0, 1\], got"):
            path.steps_for(strength)
    with pytest.raises(ValueError, match="num_steps=300 does not divide 1000"):
        DDIMPath.of(SCHEDULE, 300, "openai", True)
