"""Noise and draws on the device: those of the CPU, and the same on any number of processes."""

from __future__ import annotations

import torch

from probediff.noise import seeded_noise, training_draws
from tests.gpu.conftest import Record
from tests.gpu.scale import NUM_TRAIN_TIMESTEPS, Scale

DRAWS = ("timestep", "eps", "flip")


def test_noise_is_that_of_the_cpu(scale: Scale, record: Record) -> None:
    """Promised to float32 rounding; on an H100 it was equal to the bit."""
    ours = seeded_noise(420, range(scale.num_noises), (3, 32, 32), scale.device).cpu()
    theirs = seeded_noise(420, range(scale.num_noises), (3, 32, 32))
    equal_share, largest = float((ours == theirs).double().mean()), float((ours - theirs).abs().max())
    record(equal_share=equal_share, largest_difference=largest)
    assert largest < 1e-6
    assert equal_share > 0.999


def test_draws_are_the_same_on_any_number_of_processes(scale: Scale) -> None:
    rows = torch.zeros(2 * scale.batch_size, 3, 32, 32, device=scale.device)
    whole = training_draws(0, 5, rows, NUM_TRAIN_TIMESTEPS)
    halves = [training_draws(0, 5, rows[: scale.batch_size], NUM_TRAIN_TIMESTEPS, rank, 2) for rank in range(2)]
    for name in DRAWS:
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name)), name


def test_draws_depend_on_seed_and_step_only(scale: Scale) -> None:
    rows = torch.zeros(scale.batch_size, 3, 32, 32, device=scale.device)
    first = training_draws(0, 5, rows, NUM_TRAIN_TIMESTEPS)
    torch.randn(7, device=scale.device)
    again, next_step = (training_draws(0, step, rows, NUM_TRAIN_TIMESTEPS) for step in (5, 6))
    for name in DRAWS:
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.eps, next_step.eps)
