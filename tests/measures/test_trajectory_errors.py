"""Standard errors of where trajectories pass the latent: those of the public measure, computed anew."""

from __future__ import annotations

import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import TrajectoryDistances, TrajectoryRecorder, closest_approach
from probediff.measures.trajectory import closest_approach_errors
from tests.reference.errors_reference import errors_by_recomputing, jackknife_by_hand, kept_by_group

LAMBDAS = torch.linspace(0, 1, 11, dtype=torch.float64)
#: That are places on a grid, and how far these are apart with S steps and L places.
GRIDS = {
    "closest_to_latent_step_fraction": lambda steps, places: 1 / steps,
    "closest_step_fraction": lambda steps, places: 1 / steps,
    "latent_nearest_from_step_fraction": lambda steps, places: 1 / steps,
    "closest_lambda": lambda steps, places: 1 / (places - 1),
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trajectories(num: int, steps: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> TrajectoryDistances:
    """From noises to images on a bent way, which comes nearest to the latents somewhere in the middle."""
    noise, x_0 = normal(num, 12, seed=seed), 0.5 * normal(num, 12, seed=seed + 1)
    latent = 0.7 * noise + 0.4 * x_0 + 0.05 * normal(num, 12, seed=seed + 2)
    recorder = TrajectoryRecorder(steps)
    for index in range(steps):
        angle = (index + 1) / steps * math.pi / 2
        x = math.cos(angle) * noise + math.sin(angle) * x_0
        recorder.on_step(SimpleNamespace(index=index, x=x.to(dtype)))
    return recorder.distances(noise.to(dtype), latent.to(dtype))


def only(distances: TrajectoryDistances, kept: torch.Tensor) -> TrajectoryDistances:
    d = distances
    of_samples = d.squared_from_noise[kept], d.along_latent[kept], d.squared_latent[kept]
    return TrajectoryDistances(*of_samples, d.step_fraction)


def without_grid(name: str, error: float, steps: int) -> float:
    """The error without that of the grid."""
    cell = GRIDS[name](steps, len(LAMBDAS)) / math.sqrt(12) if name in GRIDS else 0.0
    return math.sqrt(max(0.0, error**2 - cell**2))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    num=st.integers(2, 65),
    steps=st.integers(1, 30),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_it_is_computed_anew_without_each_group(num: int, steps: int, seed: int, dtype: torch.dtype) -> None:
    distances = trajectories(num, steps, seed, dtype)
    found = closest_approach_errors(distances, LAMBDAS)
    expected = errors_by_recomputing(lambda kept: asdict(closest_approach(only(distances, kept), LAMBDAS)), num)
    # Read off between the steps: its own test.
    del expected["closest_to_latent_step_fraction"]
    assert found.keys() - expected.keys() == {"closest_to_latent_step_fraction"}
    errors = {name: without_grid(name, found[name], steps) for name in expected}
    assert errors == pytest.approx(expected, rel=1e-6, abs=1e-7, nan_ok=True)


def test_the_step_is_read_off_between_the_steps() -> None:
    """At the vertex of the parabola through the lowest mean distance and its neighbours."""
    distances, steps = trajectories(60, 40), 40
    places = []
    for kept in kept_by_group(60):
        square = distances.squared_from_noise - 2 * distances.along_latent + distances.squared_latent[:, None]
        curve = square[kept].sqrt().mean(dim=0).tolist()
        low = min(range(steps), key=curve.__getitem__)
        assert 0 < low < steps - 1
        bend = curve[low - 1] - 2 * curve[low] + curve[low + 1]
        places.append((low + 1 + (curve[low - 1] - curve[low + 1]) / (2 * bend)) / steps)
    error = closest_approach_errors(distances, LAMBDAS)["closest_to_latent_step_fraction"]
    expected = math.hypot(jackknife_by_hand(places), 1 / steps / math.sqrt(12))
    assert error == pytest.approx(expected, rel=1e-9)
    assert jackknife_by_hand(places) > 0


def test_where_the_last_step_is_the_nearest_its_place_is_taken() -> None:
    noise, latent = torch.zeros(30, 4), normal(30, 4).float()
    recorder = TrajectoryRecorder(5)
    for index in range(5):
        recorder.on_step(SimpleNamespace(index=index, x=(index + 1) / 5 * latent))
    errors = closest_approach_errors(recorder.distances(noise, latent), LAMBDAS)
    # All trajectories agree: what is left is the grid.
    assert errors["closest_to_latent_step_fraction"] == pytest.approx(0.2 / math.sqrt(12))
    assert errors["closest_lambda"] == pytest.approx(0.1 / math.sqrt(12))
    assert errors["closest_to_latent_distance"] == pytest.approx(0, abs=1e-6)


def test_a_single_trajectory_has_no_error() -> None:
    errors = closest_approach_errors(trajectories(1, 8), LAMBDAS)
    assert len(errors) == 6 and all(map(math.isnan, errors.values()))


def test_what_is_undefined_without_a_group_has_no_error() -> None:
    """The latent is not the nearest place at the end: P1's t_0 is NaN, and so is its error."""
    noise = normal(30, 4)
    recorder = TrajectoryRecorder(3)
    for index in range(3):
        recorder.on_step(SimpleNamespace(index=index, x=0.9 * noise))
    distances = recorder.distances(noise, 0.5 * noise)
    assert math.isnan(closest_approach(distances, LAMBDAS).latent_nearest_from_step_fraction)
    errors = closest_approach_errors(distances, LAMBDAS)
    assert [name for name, error in errors.items() if math.isnan(error)] == ["latent_nearest_from_step_fraction"]


def test_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match="lambdas must ascend from 0 to 1"):
        closest_approach_errors(trajectories(5, 4), LAMBDAS.flip(0))
