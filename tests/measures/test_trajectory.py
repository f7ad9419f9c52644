"""Distances between sampling trajectories and the noise-latent segment."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser
from probediff.measures import TrajectoryDistances, TrajectoryRecorder, closest_approach, heat_map
from probediff.schedule import NoiseSchedule
from tests.reference.latents_reference import heat_map_by_loops


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recorded(states: list[torch.Tensor], max_points: int = 100) -> TrajectoryRecorder:
    recorder = TrajectoryRecorder(len(states), max_points)
    for index, x in enumerate(states):
        recorder.on_step(SimpleNamespace(index=index, x=x))
    return recorder


def along_a_line(places: list[float], off: float = 0.0) -> TrajectoryDistances:
    """One sample from (0, 0), its latent at (2, 0), at the given places of the segment and so far beside it."""
    states = [torch.tensor([[2 * place, off]]) for place in places]
    return recorded(states).distances(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    num=st.integers(1, 6),
    steps=st.integers(1, 7),
    places=st.lists(st.floats(-0.5, 1.5, allow_subnormal=False), min_size=1, max_size=5),
    cache=st.sampled_from([1, 20, 2**16]),
    seed=st.integers(0, 999),
)
def test_against_the_triple_loop(num: int, steps: int, places: list[float], cache: int, seed: int) -> None:
    noise, latent = normal(num, 1, 3, 4, seed=seed), normal(num, 1, 3, 4, seed=seed + 1)
    states = [normal(num, 1, 3, 4, seed=seed + 2 + k) for k in range(steps)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probediff.measures.trajectory._CACHE_ELEMENTS", cache)
        distances = recorded(states).distances(noise, latent)
    lambdas = torch.tensor(places, dtype=torch.float64)
    flat = [x.flatten(1).double().numpy() for x in (noise, latent, *states)]
    expected = heat_map_by_loops(flat[0], flat[1], np.stack(flat[2:]), lambdas.numpy())
    np.testing.assert_allclose(heat_map(distances, lambdas), expected, rtol=1e-9)
    assert distances.squared_from_noise.shape == distances.along_latent.shape == (num, steps)
    assert distances.squared_latent.shape == (num,)
    assert distances.step_fraction.tolist() == pytest.approx([(k + 1) / steps for k in range(steps)])


def test_rounding_under_zero_counts_as_zero() -> None:
    noise, latent = normal(5, 300), normal(5, 300, seed=1)
    third = (2 * noise.double() + latent.double()) / 3
    distances = recorded([third]).distances(noise, latent)
    found = heat_map(distances, torch.tensor([1 / 3], dtype=torch.float64))
    assert torch.isfinite(found).all()
    assert float(found) < 1e-5


@pytest.mark.parametrize(
    ("num_steps", "max_points", "kept"),
    [(4, 100, [0, 1, 2, 3]), (10, 3, [2, 5, 9]), (7, 1, [6]), (1, 5, [0]), (200, 100, list(range(1, 200, 2)))],
)
def test_which_steps_are_kept(num_steps: int, max_points: int, kept: list[int]) -> None:
    states = [torch.full((1, 2), float(k)) for k in range(num_steps)]
    recorder = recorded(states, max_points)
    distances = recorder.distances(torch.zeros(1, 2), torch.ones(1, 2))
    assert torch.equal(recorder.step_fraction, distances.step_fraction)
    assert distances.squared_from_noise[0].tolist() == [2.0 * k * k for k in kept]
    assert distances.step_fraction.tolist() == pytest.approx([(k + 1) / num_steps for k in kept])


def test_states_are_copies() -> None:
    state = torch.zeros(1, 2)
    recorder = TrajectoryRecorder(2)
    for index in range(2):
        state += 1
        recorder.on_step(SimpleNamespace(index=index, x=state))
    assert recorder.distances(torch.zeros(1, 2), torch.ones(1, 2)).squared_from_noise.tolist() == [[2.0, 8.0]]


def test_batches_are_joined_in_order() -> None:
    noise, latent, states = normal(7, 4), normal(7, 4, seed=1), [normal(7, 4, seed=k) for k in (2, 3, 4)]
    whole = recorded(states).distances(noise, latent)
    parts = [
        recorded([x[rows] for x in states]).distances(noise[rows], latent[rows]) for rows in (slice(3), slice(3, 7))
    ]
    joined = TrajectoryDistances.cat(parts)
    for name, value in vars(whole).items():
        assert torch.equal(getattr(joined, name), value), name
    with pytest.raises(ValueError, match="parts must hold at least one batch"):
        TrajectoryDistances.cat([])
    with pytest.raises(ValueError, match="kept at the same steps"):
        TrajectoryDistances.cat([whole, recorded(states[:2]).distances(noise, latent)])


def test_sampling_a_gaussian_passes_its_latent() -> None:
    """The exact denoiser of a Gaussian: trajectories start at the noise, end at the image, approach the latent."""
    schedule = NoiseSchedule.cosine(400)
    denoiser = GaussianDenoiser(torch.zeros(16), torch.linspace(0.01, 0.5, 16).diag(), schedule)
    noise, recorder = normal(20, 1, 4, 4), TrajectoryRecorder(40)
    x_0 = ddim_sample(denoiser, schedule, noise, 40, clip=False, on_step=recorder.on_step)
    latent = ddim_invert(denoiser, schedule, x_0, 40, clip=False)
    distances = recorder.distances(noise, latent)
    ends = heat_map(distances, torch.tensor([0.0, 1.0]))
    assert float(ends[-1, 0]) == pytest.approx(float((x_0 - noise).flatten(1).norm(dim=1).mean()), rel=1e-5)
    assert float(ends[-1, 1]) == pytest.approx(float((x_0 - latent).flatten(1).norm(dim=1).mean()), rel=1e-5)
    found = closest_approach(distances, torch.linspace(0, 1, 21))
    assert 0 < found.closest_to_latent_step_fraction < 1
    assert found.closest_to_latent_distance < found.noise_latent_distance
    assert found.noise_latent_distance == pytest.approx(float((latent - noise).flatten(1).norm(dim=1).mean()), rel=1e-5)


def test_closest_approach_by_hand() -> None:
    lambdas = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = closest_approach(along_a_line([0.1, 0.6, 0.9, 1.4], off=0.1), lambdas)
    # At place 0.9 the latent is 0.2 along and 0.1 beside.
    assert found.closest_to_latent_step_fraction == 0.75
    assert found.closest_to_latent_distance == pytest.approx(math.hypot(0.2, 0.1))
    assert found.noise_latent_distance == 2
    # The nearest of the five places are 0, 0.5, 1 and 1.
    assert found.latent_nearest_from_step_fraction == 0.75
    # In proportion to the noise's: 0.2236 / 1.204 at step 2 and place 0.5, 0.2236 / 1.803 at step 3 and the latent.
    assert (found.closest_step_fraction, found.closest_lambda) == (0.75, 1.0)
    nearer = closest_approach(along_a_line([0.1, 0.501, 0.9, 1.4]), lambdas)
    assert (nearer.closest_step_fraction, nearer.closest_lambda) == (0.5, 0.5)
    # The first step is still at the noise, which does not count; at the others nothing is nearer than the noise.
    away = closest_approach(along_a_line([0.0, -0.5, -1.0]), lambdas)
    assert (away.closest_step_fraction, away.closest_lambda) == (pytest.approx(2 / 3), 0)
    assert math.isnan(away.latent_nearest_from_step_fraction)


def test_a_trajectory_that_turns_back() -> None:
    lambdas = torch.linspace(0, 1, 5)
    assert math.isnan(closest_approach(along_a_line([0.5, 1.0, 0.2]), lambdas).latent_nearest_from_step_fraction)
    assert closest_approach(along_a_line([1.0, 1.1]), lambdas).latent_nearest_from_step_fraction == 0.5
    assert closest_approach(along_a_line([1.0, 0.2, 1.0]), lambdas).latent_nearest_from_step_fraction == 1.0


def test_the_recorder_refuses() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        TrajectoryRecorder(0)
    with pytest.raises(ValueError, match="max_points must be at least 1, got 0"):
        TrajectoryRecorder(3, 0)
    recorder = TrajectoryRecorder(3)
    recorder.on_step(SimpleNamespace(index=0, x=torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="must see all 3 steps before its distances are taken, got 1 of the 3"):
        recorder.distances(torch.zeros(2, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match="x_T and latent and recorded must agree in number of samples"):
        recorded([torch.zeros(2, 4)]).distances(torch.zeros(3, 4), torch.ones(3, 4))


def test_bad_lambdas_are_refused() -> None:
    distances = along_a_line([0.5])
    for bad in (torch.zeros(0), torch.zeros(2, 2), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match=r"lambdas must be \(L,\) finite numbers with L > 0"):
            heat_map(distances, bad)
    for bad in (torch.ones(1), torch.tensor([0.0, 0.5]), torch.tensor([0.1, 1.0]), torch.tensor([0.0, 0.5, 0.5, 1.0])):
        with pytest.raises(ValueError, match="lambdas must ascend from 0 to 1"):
            closest_approach(distances, bad)
    same = recorded([torch.ones(1, 2)]).distances(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="latents must differ from their noises"):
        closest_approach(same, torch.linspace(0, 1, 3))
