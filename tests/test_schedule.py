"""Schedules against diffusers' betas and the published formulas; respacing against a literal search."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.schedule import NoiseSchedule


@pytest.mark.parametrize("length", [10, 1000, 4000])
def test_cosine_equals_diffusers(length: int) -> None:
    theirs = DDIMScheduler(num_train_timesteps=length, beta_schedule="squaredcos_cap_v2")
    schedule = NoiseSchedule.cosine(length)
    torch.testing.assert_close(schedule.betas.float(), theirs.betas, rtol=1e-6, atol=1e-9)


def test_linear_is_that_of_ho_et_al_and_scales_with_length() -> None:
    np.testing.assert_allclose(NoiseSchedule.linear(1000).betas.numpy(), np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    np.testing.assert_allclose(NoiseSchedule.linear(4000).betas.numpy(), np.linspace(2.5e-5, 0.005, 4000), rtol=1e-12)


def test_scaled_linear_is_that_of_stable_diffusion_and_scales_with_length() -> None:
    expected = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(NoiseSchedule.scaled_linear(1000).betas.numpy(), expected, rtol=1e-12)
    assert float(NoiseSchedule.scaled_linear(4000).alpha_bar[-1]) == pytest.approx(np.prod(1 - expected), rel=0.03)
    with pytest.raises(ValueError, match=r"num_train_timesteps must exceed 12 .* got 12"):
        NoiseSchedule.scaled_linear(12)


@given(st.integers(25, 2000), st.sampled_from(["cosine", "linear", "scaled_linear"]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_alpha_bar_falls_from_one_to_zero(length: int, name: str) -> None:
    schedule = NoiseSchedule.from_name(name, length)
    assert schedule.alpha_bar.dtype == torch.float64
    assert len(schedule) == len(schedule.alpha_bar) == length
    assert bool((schedule.alpha_bar.diff() < 0).all())
    assert 0 < schedule.alpha_bar[-1] < 0.05
    assert schedule.alpha_bar[0] < 1


def improved_diffusion_search(length: int, num_steps: int) -> list[int] | None:
    """The literal search of "ddimN" respacing: the first stride that gives N timesteps."""
    for stride in range(1, length + 1):
        if len(range(0, length, stride)) == num_steps:
            return list(range(0, length, stride))
    return None


@given(st.integers(2, 300), st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_openai_timesteps_equal_the_literal_search(length: int, data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, length))
    schedule = NoiseSchedule.cosine(length)
    expected = improved_diffusion_search(length, num_steps)
    if expected is None:
        with pytest.raises(ValueError, match=rf"num_steps={num_steps} does not divide {length} timesteps.*use \d+ or"):
            schedule.ddim_timesteps(num_steps)
    else:
        assert schedule.ddim_timesteps(num_steps) == expected


@given(st.integers(2, 300), st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_error_names_step_counts_that_work(length: int, data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, length))
    schedule = NoiseSchedule.cosine(length)
    try:
        schedule.ddim_timesteps(num_steps)
    except ValueError as error:
        words = str(error).split("use ")[1].split()
        for suggestion in (int(words[0]), int(words[2].rstrip(","))):
            assert len(schedule.ddim_timesteps(suggestion)) == suggestion


@pytest.mark.parametrize("num_steps", [1, 7, 10, 100, 1000])
def test_diffusers_timesteps_equal_theirs(num_steps: int) -> None:
    theirs = DDIMScheduler(num_train_timesteps=1000)
    theirs.set_timesteps(num_steps)
    assert NoiseSchedule.linear(1000).ddim_timesteps(num_steps, "diffusers") == theirs.timesteps.tolist()[::-1]


@pytest.mark.parametrize("num_steps", [0, -1, 4001, 2.5, True])
def test_bad_num_steps(num_steps: object) -> None:
    with pytest.raises(ValueError, match=r"num_steps must divide into 1\.\.4000, got"):
        NoiseSchedule.cosine(4000).ddim_timesteps(num_steps)  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="convention must be 'openai' or 'diffusers', got 'edm'"):
        NoiseSchedule.cosine(10).ddim_timesteps(5, "edm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_train_timesteps must be an integer of at least 2, got 1"):
        NoiseSchedule.cosine(1)
    with pytest.raises(ValueError, match=r"must exceed 20 for the linear schedule.*use the cosine"):
        NoiseSchedule.linear(20)
    with pytest.raises(ValueError, match="schedule must be one of"):
        NoiseSchedule.from_name("sigmoid", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        NoiseSchedule(torch.tensor([0.1, 1.0]))


def test_at_looks_up_each_sample() -> None:
    schedule = NoiseSchedule.cosine(10)
    found = schedule.at("alpha_bar", torch.tensor([0, 9, 3]), 4)
    assert found.shape == (3, 1, 1, 1)
    assert found.flatten().tolist() == [float(schedule.alpha_bar[k]) for k in (0, 9, 3)]
