"""What every method promises: evaluations counted, rows apart, nothing else changed, bad input refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probediff.ddim import DDIMStep
from probediff.inversion import State, invert, resample, sample
from probediff.schedule import NoiseSchedule
from tests.inversion.toys import ALL, EXACT, NOISE, D, close, problem, settings, smooth_eps


@pytest.mark.parametrize(
    ("method", "from_image"),
    [(name, image) for name in ALL for image in (False, True) if not (image and name == "swap")],
)
def test_evaluations_are_counted(method: str, from_image: bool) -> None:
    timesteps: list[int] = []

    def counted(x: Tensor, timestep: Tensor) -> Tensor:
        timesteps.append(int(timestep[0]))
        return smooth_eps(x, timestep)

    of, chosen = problem(counted, num_steps=6), settings(method, num_replaced=2, newton_iterations=3)
    sampling, inversion = chosen.evaluations(6, from_image)
    steps: list[DDIMStep] = []
    state = sample(of, chosen, NOISE, steps.append)
    assert len(timesteps) == len(steps) == sampling
    steps.clear()
    timesteps.clear()
    inverted = invert(of, chosen, State(NOISE) if from_image else state, range(5), steps.append)
    assert len(timesteps) == len(steps) == inversion
    assert [step.index for step in steps] == list(range(inversion))
    assert [step.timestep for step in steps] == timesteps
    assert not any(step.x.requires_grad or step.x_0.requires_grad for step in steps)
    if method not in ("renoise", "newton", "edict"):
        assert torch.equal(steps[-1].x, inverted.x)


@pytest.mark.parametrize("method", ALL)
def test_rows_do_not_depend_on_their_batch(method: str) -> None:
    of, chosen = problem(num_steps=6), settings(method, anderson_memory=2)
    whole = invert(of, chosen, sample(of, chosen, NOISE), range(5)).x
    parts = [
        invert(of, chosen, sample(of, chosen, NOISE[rows]), range(5)[rows]).x for rows in (slice(0, 2), slice(2, 5))
    ]
    close(torch.cat(parts), whole, 1e-12)
    empty = NOISE[:0]
    assert invert(of, chosen, sample(of, chosen, empty), range(0)).x.shape == empty.shape


@pytest.mark.parametrize("method", ALL)
def test_nothing_but_the_result_changes(network: nn.Module, digits_noise: Tensor, method: str) -> None:
    of, chosen = problem(network, schedule=NoiseSchedule.cosine(40), num_steps=4), settings(method)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    random_state, start = torch.get_rng_state(), digits_noise.clone().requires_grad_()
    state = sample(of, chosen, start)
    image = state.x.clone()
    inverted = invert(of, chosen, state, range(12))
    again = resample(of, chosen, inverted)
    assert torch.equal(state.x, image)
    assert torch.equal(start, digits_noise)
    assert not any(x.requires_grad for x in (state.x, inverted.x, again.x))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ddpm", {}, r"inversion.method must be one of ddim, .*, got 'ddpm'"),
        ("forward", {"num_replaced": 10}, r"inversion.num_replaced must be an integer in 0\.\.9 .* got 10"),
        ("forward", {"noise_seed": -1}, r"inversion.noise_seed must be an integer in 0\.\..* got -1"),
        ("swap", {"num_replaced": 11}, r"inversion.num_replaced must be an integer in 0\.\.10 .* got 11"),
        ("fixed_point", {"iterations": 0}, "inversion.iterations must be an integer of at least 1 .* got 0"),
        ("fixed_point", {"iterations": True}, "inversion.iterations must be an integer .* got True"),
        ("fixed_point", {"anderson_memory": -1}, "inversion.anderson_memory must be an integer of at least 0"),
        ("fixed_point", {"damping": 1.0}, r"inversion.damping must be at least 0 and below 1 .* got 1\.0"),
        ("renoise", {"renoise_iterations": -1}, "inversion.renoise_iterations must be"),
        ("renoise", {"renoise_average": 11}, r"inversion.renoise_average must be an integer in 1\.\.10 \(renoise"),
        ("newton", {"newton_iterations": 0}, "inversion.newton_iterations must be"),
        ("newton", {"newton_prior_weight": float("nan")}, "inversion.newton_prior_weight must be at least 0 .* nan"),
        ("edict", {"edict_mixing": 0.5}, r"inversion.edict_mixing must be above 0\.5 and at most 1 .* got 0\.5"),
        ("bdia", {"bdia_gamma": 0.0}, r"inversion.bdia_gamma must be above 0 and at most 1 .* got 0\.0"),
    ],
)
def test_bad_settings(method: str, options: dict[str, Any], message: str) -> None:
    def never(x: Tensor, timestep: Tensor) -> Tensor:
        raise AssertionError("the network was asked")

    with pytest.raises(ValueError, match=message):
        settings(method, **options).check(10)
    with pytest.raises(ValueError, match=message):
        sample(problem(never), settings(method, **options), NOISE)
    if method != "ddpm":
        settings("ddim", **options).check(10)


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_refuse_clipping(method: str) -> None:
    with pytest.raises(ValueError, match=f"'{method}' inverts its sampler exactly.*got clip=True .*; turn both off"):
        sample(problem(clip=True), settings(method), NOISE)
    with pytest.raises(ValueError, match="clip_inversion=True"):
        invert(problem(clip_inversion=True), settings(method), State(NOISE), range(5))
    settings(method).check(10)


def test_bad_states() -> None:
    with pytest.raises(ValueError, match=r"state.predictions must hold the 3 predictions .* got 0: method 'swap'"):
        invert(problem(), settings("swap"), State(NOISE), range(5))
    with pytest.raises(ValueError, match="indices must number the 5 images of the state, got 4"):
        invert(problem(), settings("ddim"), State(NOISE), range(4))
    with pytest.raises(
        ValueError, match=r"state.partner must have the shape of state.x, got \(4, 12\) beside \(5, 12\)"
    ):
        invert(problem(), settings("belm"), State(NOISE, NOISE[:4]), range(5))
    with pytest.raises(ValueError, match="the input must be a float tensor"):
        invert(problem(), settings("newton"), State(torch.zeros(5, D, dtype=torch.uint8)), range(5))
    with pytest.raises(ValueError, match=r"eps_model must return the shape of its input, \(5, 12\), got \(5, 3\)"):
        invert(problem(lambda x, t: x[:, :3]), settings("renoise"), State(NOISE), range(5))
    with pytest.raises(ValueError, match=r"num_steps must divide into 1\.\.1000, got 0"):
        sample(problem(num_steps=0), settings("bdia"), NOISE)
    with pytest.raises(ValueError, match="convention must be"):
        sample(problem(convention="edm"), settings("belm"), NOISE)
