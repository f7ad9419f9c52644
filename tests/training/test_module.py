"""Training: keyed randomness, averages, bad losses, precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from probediff.callbacks import ProbeSchedule
from probediff.denoisers import UNet
from probediff.exceptions import NonFiniteLossError
from probediff.training.ema import AveragedWeights
from probediff.training.module import DiffusionModule
from tests.conftest import all_probes, tiny_module

Fit = Callable[..., tuple[DiffusionModule, L.Trainer]]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_depends_on_the_seed_and_not_on_global_randomness(fit: Fit) -> None:
    torch.manual_seed(1)
    first, _ = fit()
    torch.manual_seed(2)
    again, _ = fit()
    assert same_weights(first, again)
    other = tiny_module()
    other.seed = 1
    fit(module=other)
    assert not same_weights(first, other)


def test_flips_are_drawn(fit: Fit) -> None:
    plain, _ = fit()
    flipped, _ = fit(module=tiny_module(random_flip=True))
    assert not same_weights(plain, flipped)


def test_training_learns(fit: Fit) -> None:
    losses: list[float] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    fit(max_steps=60, callbacks=[Keep()])
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(fit: Fit, precision: str) -> None:
    module, _ = fit(all_probes(), precision=precision)
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def test_weights_of_16_bits_are_refused(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"trainer.precision must be .* got bf16-true: averages .*use bf16-mixed"):
        fit([], precision="bf16-true")


def test_the_simple_loss_leaves_the_variance_channels_alone(fit: Fit) -> None:
    module, _ = fit(module=tiny_module(loss="simple"))
    last = module.eps_model.unet.out[2].weight  # type: ignore[union-attr, index]
    assert float(last[1].detach().abs().max()) == 0
    assert float(last[0].detach().abs().max()) > 0


def test_averages_equal_the_literal_recursion() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = AveragedWeights(model, [0.9, 0.5])
    expected = {rate: [p.detach().clone().double() for p in model.parameters()] for rate in ema.rates}
    for step in range(1, 8):
        for parameter in model.parameters():
            parameter.data += step
        model[1].running_mean += 1
        ema.update(model, step)
        for rate, values in expected.items():
            for k, parameter in enumerate(model.parameters()):
                values[k] = rate * values[k] + (1 - rate) * parameter.detach().double()
    for rate, values in expected.items():
        for mine, theirs in zip(ema.model(rate).parameters(), values, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
        assert torch.equal(ema.model(rate)[1].running_mean, model[1].running_mean)  # type: ignore[index]
    assert not any(p.requires_grad for p in ema.parameters())


def test_warmup_forgets_the_start() -> None:
    ema = AveragedWeights(nn.Linear(1, 1), [0.9999], warmup=True)
    assert ema.rate_at(0.9999, 1) == pytest.approx(2 / 11)
    assert ema.rate_at(0.9999, 10**6) == 0.9999
    assert AveragedWeights(nn.Linear(1, 1), [0.9999]).rate_at(0.9999, 1) == 0.9999


def test_averages_follow_optimiser_steps_not_batches(fit: Fit) -> None:
    module, trainer = fit(module=tiny_module(ema_rates=[1e-9]), accumulate_grad_batches=2)
    assert trainer.global_step == 5
    torch.testing.assert_close(
        list(module.ema.model().parameters()), [p.detach() for p in module.eps_model.parameters()], atol=1e-6, rtol=1e-6
    )


def test_a_bad_loss_stops_the_run_and_names_the_last_good_checkpoint(fit: Fit, tmp_path: Path) -> None:
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: DiffusionModule, *_: Any) -> None:
            if trainer.global_step == 3:
                module.eps_model.unet.out[2].bias.data.fill_(float("nan"))  # type: ignore[union-attr, index]

    with pytest.raises(NonFiniteLossError) as caught:
        fit([Poison()], schedule=ProbeSchedule(steps=(2, 3)))
    message = str(caught.value)
    assert "not finite at step 3" in message
    assert str(tmp_path / "run" / "checkpoints" / "step=00000003.ckpt") in message
    assert "--model.learning_rate" in message
    assert "--trainer.gradient_clip_val" in message
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "step=00000003.ckpt", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in checkpoint["state_dict"].values())


def test_compiling_keeps_the_keys() -> None:
    module = tiny_module(compile=True)
    module.trainer = L.Trainer(accelerator="cpu", logger=False)
    keys = list(module.state_dict())
    module.on_fit_start()
    assert list(module.state_dict()) == keys


@pytest.mark.slow
def test_a_compiled_run_trains_like_an_eager_one(fit: Fit, tmp_path: Path) -> None:
    compiled, _ = fit([], module=tiny_module(compile=True))
    eager, _ = fit([], module=tiny_module(), default_root_dir=tmp_path / "eager")
    assert list(compiled.state_dict()) == list(eager.state_dict())
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "vlb"}, r"loss must be one of \['hybrid', 'simple'\], got 'vlb'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0"),
        ({"ema_rates": [1.0]}, "ema_rates must be different numbers strictly between 0 and 1"),
        ({"ema_rates": [0.9, 0.9]}, "ema_rates must be different numbers strictly between 0 and 1"),
        ({"schedule": "sigmoid"}, "schedule must be one of"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_module(**options)


def test_the_hybrid_loss_needs_variance_channels() -> None:
    network = UNet(8, 1, 1, channels=8, channel_mult=(1,), num_res_blocks=1, attention_resolutions=())
    with pytest.raises(ValueError, match=r"loss 'hybrid' needs a network with 2 output channels .* got 1; use loss"):
        DiffusionModule(network)
    DiffusionModule(network, loss="simple")
