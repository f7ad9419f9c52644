"""States in float64 with a network in float32: what a network predicts must not cost the states their digits."""

import pytest
import torch
from torch import Tensor, nn

from probediff.denoisers import PredictionModel
from probediff.denoisers.predictions import PredictionType
from probediff.inversion import InversionSettings, Problem, invert, resample, sample
from probediff.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(100)


class Smooth(nn.Module):
    """A contraction in float32, so that the fixed point exists."""

    in_channels = out_channels = 1

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return 0.2 * torch.sin(x + 0.01 * timestep[:, None, None, None])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_fixed_point_is_found_to_the_digits_of_the_state(prediction_type: PredictionType) -> None:
    model = PredictionModel(Smooth(), SCHEDULE, prediction_type)
    problem = Problem(model, SCHEDULE, 10, clip=False, clip_inversion=False, network_dtype=torch.float32)
    settings = InversionSettings(method="fixed_point", iterations=60)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = sample(problem, settings, noise)
    latent = invert(problem, settings, state, range(3))
    again = resample(problem, settings, latent)
    assert float((again.x - state.x).norm() / state.x.norm()) < 1e-12
