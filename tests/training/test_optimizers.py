"""Optimisers and schedules of one's own: their steps, and the checkpoints that a training goes on from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR

from probediff.runs.changes import compare_configs
from probediff.runs.folder import RunFolder
from probediff.training.checkpoints import _check_optimizer
from probediff.training.module import DiffusionModule
from tests.conftest import Fit, tiny_module

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer] | None] = {
    "default": None,
    "sgd": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(optim.Adam, amsgrad=True),
    "rmsprop": optim.RMSprop,
    "adafactor": optim.Adafactor,
    "rprop": optim.Rprop,
}
SCHEDULES = {
    "none": None,
    "cosine": partial(CosineAnnealingLR, T_max=9),
    "exponential": partial(ExponentialLR, gamma=0.5),
}


class Net(nn.Module):
    """Three weights of different shapes, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 1, bias=False))
        self.unused = nn.Parameter(torch.zeros(5))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.frozen[0]


def module_with(optimizer: str, schedule: str = "none") -> DiffusionModule:
    factories = {"optimizer": OPTIMIZERS[optimizer], "lr_scheduler": SCHEDULES[schedule]}
    return DiffusionModule(Net(), num_train_timesteps=40, ema_rates=[0.9], image_shape=(1, 8, 8), **factories)


def checkpoint_after_steps(module: DiffusionModule) -> dict[str, Any]:
    """What Lightning would save of the optimiser and its schedule."""
    made, schedule = module.make_optimizer([p for p in module.eps_model.parameters() if p.requires_grad])
    for _ in range(2):
        module.eps_model(torch.ones(2, 1, 8, 8), torch.tensor([0, 39])).sum().backward()
        made.step()
        if schedule is not None:
            schedule.step()
    schedules = [] if schedule is None else [schedule.state_dict()]
    return {"global_step": 2, "optimizer_states": [made.state_dict()], "lr_schedulers": schedules}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_goes_on_with_its_own_optimiser_alone(optimizer: str, schedule: str) -> None:
    checkpoint = checkpoint_after_steps(module_with(optimizer, schedule))
    _check_optimizer(checkpoint, module_with(optimizer, schedule))
    other = {"default": "momentum"}.get(optimizer, "default")
    if optimizer != "adam":  # whose settings are those of AdamW
        with pytest.raises((ValueError, KeyError)):
            _check_optimizer(checkpoint, module_with(other, schedule))
    for another in set(SCHEDULES) - {schedule}:
        with pytest.raises(ValueError, match="schedule"):
            _check_optimizer(checkpoint, module_with(optimizer, another))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_damage_to_the_state_is_found(data: st.DataObject) -> None:
    optimizer = data.draw(st.sampled_from([name for name in OPTIMIZERS if name != "sgd"]))  # which has no state
    module = module_with(optimizer, "cosine")
    checkpoint = copy.deepcopy(checkpoint_after_steps(module))
    (states,) = checkpoint["optimizer_states"]
    index = data.draw(st.sampled_from(sorted(states["state"])))
    name = data.draw(st.sampled_from(sorted(states["state"][index])))
    damage = data.draw(st.sampled_from(["lost", "shape", "type", "parameters", "group", "schedule"]))
    if damage == "lost":
        del states["state"][index][name]
    elif damage == "shape":
        states["state"][index][name] = torch.zeros(7, 7)
    elif damage == "type":
        states["state"][index] = None
    elif damage == "parameters":
        states["param_groups"][0]["params"].pop()
    elif damage == "group":
        del states["param_groups"][0]["lr"]
    else:
        del checkpoint["lr_schedulers"][0]["last_epoch"]
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        _check_optimizer(checkpoint, module)


def rate_after(fit: Fit, module: DiffusionModule, **trainer_options: Any) -> float:
    _, trainer = fit(module=module, **trainer_options)
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_schedule_moves_on_at_every_step_of_the_optimiser(fit: Fit) -> None:
    for options in ({}, {"accumulate_grad_batches": 2}):
        halved = tiny_module(learning_rate=0.01, lr_scheduler=SCHEDULES["exponential"])
        assert rate_after(fit, halved, max_steps=3, **options) == pytest.approx(0.01 / 8)


def test_a_schedule_that_follows_the_loss(fit: Fit, tmp_path: Path) -> None:
    """Without patience, and with a loss that is never good enough: it has moved on where a checkpoint is saved."""
    plateau = partial(ReduceLROnPlateau, monitor="train/loss", patience=0, threshold=1.0, factor=0.5)
    for options in ({}, {"accumulate_grad_batches": 2}):
        module = tiny_module(lr_scheduler=plateau, learning_rate=0.4)
        run = tmp_path / f"run{len(options)}"
        assert rate_after(fit, module, max_steps=4, probes=[], default_root_dir=run, **options) == 0.4 / 16
        saved = torch.load(RunFolder(run).checkpoint_path(2), weights_only=True)
        assert saved["lr_schedulers"][0]["_last_lr"] == [0.4 / 4]


@pytest.mark.parametrize("given", [{}, {"optimizer": {"class_path": "x.Y"}}, {"lr_scheduler": {"class_path": "x.Y"}}])
def test_the_rate_of_the_default_optimiser_alone_may_change_on_the_way(given: dict[str, Any]) -> None:
    before, after = ({"model": {"learning_rate": rate}} | given for rate in (1.0, 2.0))
    allowed, refused = compare_configs(before, after, {"optimizer": None, "lr_scheduler": None})
    assert ("model.learning_rate" in allowed) == (not given) == (not refused)


def test_what_is_frozen_and_the_averages_are_not_trained(fit: Fit) -> None:
    module = module_with("momentum")
    _, trainer = fit(module=module, max_steps=1)
    ours = {id(p) for p in (*module.eps_model.unet.layers.parameters(), module.eps_model.unet.unused)}
    assert {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]} == ours


def test_settings_without_effect_are_told() -> None:
    with pytest.warns(UserWarning, match="learning_rate 0.002 and weight_decay 0 of the model have no effect"):
        tiny_module(optimizer=OPTIMIZERS["sgd"])


def test_a_network_of_one_s_own_needs_the_shape_of_the_images() -> None:
    with pytest.raises(ValueError, match=r"image_shape must be given for Net, \(C, H, W\) of the images, got none"):
        DiffusionModule(Net())
    before = torch.random.get_rng_state()
    module = DiffusionModule(Net(), image_shape=(1, 8, 8))
    assert module.image_shape == (1, 8, 8) and not torch.equal(before, torch.random.get_rng_state())  # by Net itself
    network, state = Net(), torch.random.get_rng_state()
    DiffusionModule(network, image_shape=(1, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), state) and network.training
