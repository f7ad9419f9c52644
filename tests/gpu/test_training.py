"""Training steps on the device: the same twice to the bit, without waiting for the device, compiled or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tests.benchmarks.contenders import Form, Network, Training
from tests.gpu.captured import CAPTURE_WARM_UP, graphed_probediff
from tests.gpu.conftest import Record
from tests.gpu.scale import Scale, relative_difference, without_waiting

EAGER = Form()
COMPILED = Form(compile={"dynamic": False})


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """With deterministic algorithms where torch has them."""
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def images(scale: Scale, sizes: Network) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (4 * scale.batch_size, 3, sizes.image_size, sizes.image_size)
    return (torch.rand(shape, generator=generator) * 2 - 1).to(scale.device)


def start(scale: Scale, sizes: Network, form: Form = EAGER) -> Training:
    torch.manual_seed(0)
    return Training(sizes, images(scale, sizes), "bfloat16", form)


def weights(training: Training) -> Tensor:
    return torch.cat([p.detach().flatten() for p in training.module.eps_model.parameters()]).cpu()


def trained_weights(scale: Scale, sizes: Network, form: Form = EAGER) -> Tensor:
    training = start(scale, sizes, form)
    for _ in range(scale.training_steps):
        training.step()
    return weights(training)


def assert_twice_the_same(scale: Scale, sizes: Network, form: Form, record: Record) -> None:
    first = trained_weights(scale, sizes, form)
    torch.compiler.reset()
    again = trained_weights(scale, sizes, form)
    record(bitwise=torch.equal(first, again), largest_difference=float((first - again).abs().max()))
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(start(scale, sizes)))


@pytest.mark.parametrize("wanted", [False, True], ids=["as_usual", "deterministic"])
def test_training_is_the_same_twice(wanted: bool, scale: Scale, record: Record) -> None:
    with deterministic(wanted):
        assert_twice_the_same(scale, scale.trained, EAGER, record)


def test_compiled_training_is_the_same_twice(scale: Scale, record: Record) -> None:
    if not scale.on_gpu:
        pytest.skip("compiling takes minutes on few cores; tests/training compares a compiled run with an eager one")
    assert_twice_the_same(scale, scale.compiled, COMPILED, record)


def test_a_training_step_does_not_wait_for_the_device(scale: Scale) -> None:
    training = start(scale, scale.network)
    for _ in range(2):  # tables go to the device in the first step
        training.step()
    with without_waiting(scale.device):
        training.step()
    assert torch.isfinite(weights(training)).all()


def test_a_captured_step_trains_like_one_that_is_not(scale: Scale, record: Record) -> None:
    """Dropout included, which takes its seed when the graph is replayed."""
    if not scale.on_gpu:
        pytest.skip("the CPU has no graphs to capture")
    x_0 = images(scale, scale.compiled)
    torch.manual_seed(0)
    captured = graphed_probediff(scale.compiled, x_0, "bfloat16")
    torch.manual_seed(0)
    plain = Training(scale.compiled, x_0, "bfloat16", EAGER, capturable=True)
    draws = plain.draws()
    with plain.dropout():
        for _ in range(CAPTURE_WARM_UP):
            plain.learn(draws)
    before = weights(plain)
    for _ in range(scale.training_steps):
        captured.step()
        plain.step()
    ours = torch.cat([p.detach().flatten() for p in captured.network.parameters()]).cpu()
    difference = relative_difference(ours - before, weights(plain) - before)
    record(bitwise=torch.equal(ours, weights(plain)), difference_of_movement=difference)
    assert difference < 0.1
