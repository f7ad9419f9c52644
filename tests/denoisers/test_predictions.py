"""What adapters around networks make of the noise, v and the image that they predict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probediff.ddim import as_predict
from probediff.denoisers import PredictionModel
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import hashed_normal


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_perfect_predictions_become_the_same_noise(prediction_type: Any) -> None:
    schedule = NoiseSchedule.cosine(50)
    timestep = torch.tensor([0, 49])
    a = schedule.alpha_bar[timestep][:, None, None, None]
    x_0, eps = hashed_normal("x_0", (2, 3, 8, 8)), hashed_normal("eps", (2, 3, 8, 8))
    outputs = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0, "sample": x_0}

    class Oracle(nn.Module):
        in_channels, out_channels = 3, 6

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return torch.cat([outputs[prediction_type], torch.full_like(x, 7.0)], dim=1)

    model = PredictionModel(Oracle(), schedule, prediction_type)
    found = model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, timestep)
    torch.testing.assert_close(found, eps, rtol=0, atol=1e-12)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    for timesteps, rows in ((timestep, slice(None)), (49, slice(1, None))):
        image, noise = as_predict(model, schedule)(x_t[rows], timesteps)
        outputs[prediction_type] = outputs[prediction_type][-1:]
        torch.testing.assert_close(noise, eps[rows], rtol=0, atol=1e-12)
        torch.testing.assert_close(image, x_0[rows], rtol=0, atol=1e-10 if prediction_type == "epsilon" else 1e-12)
