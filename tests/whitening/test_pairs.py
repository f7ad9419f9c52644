"""Noises of images by a network: what is finished is not asked for again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from probediff.models import ProbeModel
from probediff.runs.batches import PartialPass
from probediff.schedule import NoiseSchedule
from probediff.whitening.pairs import NetworkNoises

SCHEDULE = NoiseSchedule.cosine(40)


class Half(nn.Module):
    """A network whose noise is half its input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("weight", torch.zeros(1))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        return x / 2


def test_finished_images_keep_their_noise_and_finished_batches_are_not_made_again(tmp_path: Path) -> None:
    half = Half()
    model = ProbeModel(half, SCHEDULE, (1, 2, 2), 0, {})
    images = torch.linspace(0.1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    counted: list[int] = []
    noises = NetworkNoises(model, tolerance=1e-3, batch_size=4, on_evaluations=counted.append)
    store = PartialPass(tmp_path, {})
    iterates = noises.iterates(images, 20, [2, 60, 100], store)
    assert torch.equal(iterates.eps[60], iterates.eps[100]) and not torch.equal(iterates.eps[2], iterates.eps[60])
    assert iterates.progress(100)["converged_share"] == 1 and iterates.progress(2)["converged_share"] == 0
    assert iterates.progress(2)["residual_rms"] > iterates.progress(100)["residual_rms"] > 0
    assert sum(counted) >= 600
    before = half.calls
    again = noises.iterates(images, 20, [2, 60, 100], store)
    assert half.calls == before and torch.equal(again.eps[60], iterates.eps[60])
    start = NetworkNoises(model, batch_size=4, start_seed=1).iterates(images, 20, [1])
    other = NetworkNoises(model, batch_size=5, start_seed=1).iterates(images, 20, [1])
    torch.testing.assert_close(start.eps[1], other.eps[1])
    assert float((start.eps[1] - noises.iterates(images, 20, [1]).eps[1]).std()) > 0.1
