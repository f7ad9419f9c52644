"""A training whose output is a file: a line an event or a minute, and the loss is read for those lines alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from probediff.callbacks import progress_lines
from probediff.callbacks.progress_lines import ProgressLines
from tests.conftest import Fit


class Loss:
    """A loss that counts how often it is read."""

    reads = 0

    def detach(self) -> Loss:
        return self

    def __mul__(self, number: int) -> Loss:
        return self

    def __float__(self) -> float:
        self.reads += 1
        return 0.25


def train(num_steps: int, seconds: float, num_events: int, monkeypatch: pytest.MonkeyPatch) -> Loss:
    """Call the hooks of a training that takes so long and has so many events."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: clock.now))
    trainer: Any = SimpleNamespace(estimated_stepping_batches=num_steps, global_step=0, accumulate_grad_batches=1)
    module: Any = SimpleNamespace(last_checkpoint="step 0")
    lines, loss = ProgressLines(), Loss()
    lines.on_train_start(trainer, module)
    for step in range(1, num_steps + 1):
        lines.on_train_batch_start(trainer, module)
        clock.now += seconds / num_steps
        trainer.global_step = step
        lines.on_train_batch_end(trainer, module, {"loss": loss})  # type: ignore[dict-item]
        if step % (num_steps // num_events) == 0:
            module.last_checkpoint = f"step {step}"
    lines.on_train_end(trainer, module)
    return loss


@pytest.mark.parametrize(("seconds", "num_lines"), [(2, 5), (600, 10), (1200, 20)])
def test_a_log_does_not_grow_with_the_steps(
    seconds: float, num_lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for num_steps in (20, 2000):
        loss = train(num_steps, seconds, 5, monkeypatch)
        written = capsys.readouterr().out.splitlines()
        assert num_lines <= len(written) == loss.reads <= num_lines + 5
        assert written[-1] == (
            f"step {num_steps:,} of {num_steps:,}: loss 0.25, {num_steps / seconds:.3g} steps/s, 0:00:00 left"
        )


def test_a_line_says_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(2000, 2000, 1, monkeypatch)
    assert capsys.readouterr().out.splitlines()[0] == "step 60 of 2,000: loss 0.25, 1 steps/s, 0:32:20 left"


def test_in_a_training(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    _, trainer = fit(max_steps=3, callbacks=[ProgressLines()], enable_progress_bar=True, accumulate_grad_batches=2)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("step "))
    assert line.startswith("step 3 of 3: loss ")
    shown = float(line.split("loss ")[1].split(",")[0])
    assert shown == pytest.approx(float(trainer.callback_metrics["train/loss"]), rel=1e-3)
    assert torch.isfinite(torch.tensor(shown))
