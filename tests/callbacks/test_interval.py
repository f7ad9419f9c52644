"""Mean loss and speed, with one batch a step of the optimiser and with several."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.callbacks import ProbeSchedule, Probing
from probediff.callbacks import interval as interval_module
from probediff.callbacks.interval import TrainingInterval
from probediff.data import Digits
from probediff.exceptions import StoppedBySignalError
from probediff.runs.folder import RunFolder
from tests.conftest import tiny_module, tiny_settings


class Watch(L.Callback):
    """Keeps ``train/loss`` of every batch as it is logged, by the step of the optimiser that it is for; may stop."""

    def __init__(self, stop_at: int = -1) -> None:
        self.losses: dict[int, list[float]] = {}
        self.stop_at = stop_at

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.step = trainer.global_step + 1
        if self.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.losses.setdefault(self.step, []).append(float(trainer.callback_metrics["train/loss"]))


def train(folder: Path, watch: Watch, ckpt_path: Path | None = None, **options: Any) -> list[dict[str, Any]]:
    """Train to step 5 with events at 0, 2 and 5, in epochs of 6 batches; what it records of the training."""
    trainer = L.Trainer(
        max_steps=5,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_train_batches=6,
        callbacks=[watch, Probing(ProbeSchedule(steps=(2,)), tiny_settings(), False)],
        **options,
    )
    trainer.fit(tiny_module(), datamodule=Digits(batch_size=16), ckpt_path=ckpt_path, weights_only=True)
    return [record for record in RunFolder(folder).records() if record["probe"] == "training"]


#: Batches of each step: an epoch of 6 batches ends with what is left of them.
BATCHES = {1: [1, 1, 1, 1, 1], 2: [2, 2, 2, 2, 2], 3: [3, 3, 3, 3, 3], 4: [4, 2, 4, 2, 4]}


@pytest.mark.parametrize("accumulated", [1, 2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_the_mean_is_of_the_logged_losses_and_steps_are_the_optimisers(tmp_path: Path, accumulated: int) -> None:
    watch = Watch()
    records = train(tmp_path, watch, accumulate_grad_batches=accumulated)
    assert [len(losses) for losses in watch.losses.values()] == BATCHES[accumulated]
    for record, steps in zip(records, ((1, 2), (3, 4, 5)), strict=True):
        losses = [loss for step in steps for loss in watch.losses[step]]
        assert record["values"]["loss_mean"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-6)
        assert record["conventions"]["batches"] == len(losses)
        assert record["conventions"]["optimizer_steps"] == len(steps)
        assert record["values"]["steps_per_second"] > 0


@pytest.mark.parametrize("is_old", [False, True])
def test_a_resumed_run_records_the_same_mean_and_steps(tmp_path: Path, is_old: bool) -> None:
    """An earlier version kept the sum of the divided losses, and no steps."""
    whole = train(tmp_path / "whole", Watch(), accumulate_grad_batches=4)
    with pytest.raises(StoppedBySignalError, match="at step 3"):
        train(tmp_path / "cut", Watch(stop_at=3), accumulate_grad_batches=4)
    path = RunFolder(tmp_path / "cut").checkpoint_path(3)
    if is_old:
        checkpoint = torch.load(path, weights_only=True)
        state = checkpoint["callbacks"]["Probing"]
        assert state.pop("optimizer_steps") == 1
        state["loss_sum"] /= 4
        torch.save(checkpoint, path)
    resumed = train(tmp_path / "cut", Watch(), path, accumulate_grad_batches=4)
    for one, other in zip(whole, resumed, strict=True):
        assert one["values"]["loss_mean"] == pytest.approx(other["values"]["loss_mean"], rel=1e-12)
        assert one["conventions"] == other["conventions"]


def trainer_at(step: int, accumulated: int) -> Any:
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    return SimpleNamespace(
        global_step=step,
        accumulate_grad_batches=accumulated,
        is_global_zero=True,
        precision="32-true",
        strategy=strategy,
    )


@given(
    losses=st.lists(st.lists(st.integers(-64, 64), min_size=1, max_size=4), min_size=1, max_size=6),
    cut=st.integers(0, 5),
    accumulated=st.sampled_from([1, 2, 4]),
    first=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_wherever_it_is_cut(losses: list[list[int]], cut: int, accumulated: int, first: int) -> None:
    """Each inner list is a step of the optimiser; a step takes two seconds on the clock, and the break none."""
    seconds = 0.0
    interval = TrainingInterval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interval_module, "time", SimpleNamespace(perf_counter=lambda: seconds))
        interval.begin(first)
        for number, step in enumerate(losses, 1):
            for loss in step:
                interval.add(trainer_at(first + number - 1, accumulated), torch.tensor(loss / 8) / accumulated)
            seconds += 2
            if number == cut:
                state = interval.state_dict(first + number)
                interval, seconds = TrainingInterval(), seconds + 1000
                interval.restore(state, trainer_at(first + number, accumulated), torch.device("cpu"))
        (entry,) = interval.entries(trainer_at(first + len(losses), accumulated))
    every = [loss / 8 for step in losses for loss in step]
    assert entry.result.values == {"loss_mean": math.fsum(every) / len(every), "steps_per_second": 0.5}
    conventions = {"batches": len(every), "optimizer_steps": len(losses), "precision": "32-true"}
    assert entry.conventions == conventions


def test_the_speed_of_an_earlier_checkpoint_is_unknown() -> None:
    interval = TrainingInterval()
    interval.restore({"loss_sum": 1.5, "loss_count": 3}, trainer_at(7, 1), torch.device("cpu"))
    (entry,) = interval.entries(trainer_at(7, 1))
    assert entry.result.values["loss_mean"] == 0.5 and math.isnan(entry.result.values["steps_per_second"])
    assert entry.conventions["optimizer_steps"] == 3
