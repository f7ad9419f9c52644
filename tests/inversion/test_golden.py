"""Against numbers that the published implementations gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from probediff.inversion import InversionSettings, Problem, State, invert, sample
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import analytic_eps, hashed_images, hashed_normal, load_golden

CASES = load_golden("inversion")["cases"]
SHAPE = (2, 3, 4, 4)


def problem(num_train_timesteps: int, convention: Any, clip: bool = False) -> Problem:
    def eps_model(x: Tensor, timestep: Tensor) -> Tensor:
        return analytic_eps(x, timestep * (1000 / num_train_timesteps))

    return Problem(eps_model, NoiseSchedule.cosine(num_train_timesteps), 20, convention, clip, clip)


def assert_recorded(case: str, *ours: Tensor | None, tolerance: float = 1e-8) -> None:
    assert len(CASES[case]) == len(ours)
    for values, expected in zip(ours, CASES[case], strict=True):
        assert values is not None
        recorded = torch.tensor(expected, dtype=torch.float64)
        scale = float(recorded.abs().max())
        torch.testing.assert_close(values.flatten(), recorded, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("edict", InversionSettings("edict")),
        ("belm", InversionSettings("belm")),
        ("bdia gamma=1.0", InversionSettings("bdia", bdia_gamma=1.0)),
        ("bdia gamma=0.5", InversionSettings("bdia", bdia_gamma=0.5)),
    ],
)
def test_exact_methods_equal_the_published_implementations(name: str, settings: InversionSettings) -> None:
    of = problem(1000, "diffusers")
    state = sample(of, settings, hashed_normal("inversion_x_T", SHAPE))
    assert_recorded(f"{name}/sample", *([state.x, state.partner] if name == "edict" else [state.x]))
    latent = invert(of, settings, State(hashed_images("inversion_x_0", SHAPE)), range(2))
    assert_recorded(f"{name}/invert", latent.x, latent.partner)


@pytest.mark.parametrize("clip", [True, False])
def test_forward_and_swap_equal_the_authors(clip: bool) -> None:
    of, tag = problem(4000, "openai", clip), "clipped" if clip else "unclipped"
    forward, swap = InversionSettings("forward", num_replaced=3), InversionSettings("swap", num_replaced=5)
    latent = invert(of, forward, State(hashed_images("inversion_x_0", SHAPE)), range(2))
    # The authors' code keeps the coefficients of a step in float32.
    assert_recorded(f"forward 3/{tag}/invert", latent.x, tolerance=1e-5)
    state = sample(of, swap, hashed_normal("inversion_x_T", SHAPE))
    assert_recorded(f"swap 5/{tag}/sample", state.x, tolerance=1e-5)
    # Their noise re-derived from the clipped image loses most of float32's digits at the least noisy timesteps.
    latent = invert(of, swap, state, range(2))
    assert_recorded(f"swap 5/{tag}/invert", latent.x, tolerance=1e-3 if clip else 1e-5)
