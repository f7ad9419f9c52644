"""Analytic denoisers on the device: the numbers of the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from probediff.denoisers import ANALYTIC_OPTIONS, analytic_denoiser
from probediff.schedule import NoiseSchedule
from tests.gpu.conftest import Record
from tests.gpu.scale import Scale
from tests.reference.golden_inputs import hashed_normal, smooth_images


@pytest.mark.parametrize("kind", ANALYTIC_OPTIONS)
def test_analytic_denoisers_are_those_of_the_cpu(kind: str, scale: Scale, record: Record) -> None:
    schedule = NoiseSchedule.cosine(1000)
    model = analytic_denoiser(kind, smooth_images("analytic", 40, 8), schedule, mirrored=True)
    x, timestep = hashed_normal("x", (4, 3, 8, 8)), torch.tensor([100, 400, 700, 950])
    moved = copy.deepcopy(model).to(scale.device)
    eps = moved(x.to(scale.device), timestep.to(scale.device))
    error = float((eps.cpu() - model(x, timestep)).abs().max())
    record(kind=kind, error=error)
    assert eps.device.type == scale.device.type
    assert error < 1e-9
