"""Mean loss and speed of the training between two probe events, whatever is accumulated and wherever it was cut."""

import math
import time
from typing import Any

import lightning as L
import torch

from probediff.runs.results import ProbeResult
from probediff.runs.tracking import Entry


class TrainingInterval:
    """The training since the last event: losses of batches, steps of the optimiser, seconds.

    With ``trainer.accumulate_grad_batches`` a step of the optimiser takes several batches, each with a loss.
    """

    def __init__(self) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._loss_count = 0
        self._first_step = 0
        self._start = time.perf_counter()

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a resumed run needs to record the same mean; ``step`` is the optimiser's."""
        seconds = time.perf_counter() - self._start
        sums = {"loss_sum": float(self._loss_sum), "loss_count": self._loss_count}
        return sums | {"seconds": seconds, "optimizer_steps": step - self._first_step}

    def restore(self, state: dict[str, Any] | None, trainer: L.Trainer, device: torch.device) -> None:
        """Go on with the interval of a checkpoint, if there is one; its losses are summed on ``device``.

        Checkpoints of earlier versions do not say how long the interval has lasted, so that its speed is not known; nor
        the steps, and their losses are divided by the number of batches that are accumulated.
        """
        state = state or {"loss_sum": 0.0, "loss_count": 0, "seconds": 0.0, "optimizer_steps": 0}
        times = 1 if "optimizer_steps" in state else trainer.accumulate_grad_batches
        # A float64 sum: its value does not depend on where a resumed run was cut.
        self._loss_sum = torch.tensor(state["loss_sum"] * times, dtype=torch.float64, device=device)
        self._loss_count = state["loss_count"]
        self._first_step = trainer.global_step - state.get("optimizer_steps", math.ceil(self._loss_count / times))
        self._start = time.perf_counter() - state.get("seconds", math.nan)

    def begin(self, step: int) -> None:
        """Start anew, at a step of the optimiser."""
        self._loss_sum.zero_()
        self._loss_count = 0
        self._first_step = step
        self._start = time.perf_counter()

    def add(self, trainer: L.Trainer, loss: torch.Tensor) -> None:
        """A batch with the loss that Lightning hands to callbacks, which it has divided for the sum of gradients."""
        self._loss_sum += loss.detach() * trainer.accumulate_grad_batches
        self._loss_count += 1

    def reduce(self, trainer: L.Trainer) -> None:
        """Take the mean over the processes, which is what a checkpoint keeps of all of them."""
        self._loss_sum = trainer.strategy.reduce(self._loss_sum, reduce_op="mean")

    def entries(self, trainer: L.Trainer) -> list[Entry]:
        """Mean of ``train/loss`` over the batches, and steps of the optimiser a second, as a record like any other."""
        step = trainer.global_step
        if not (trainer.is_global_zero and self._loss_count):
            return []
        steps = step - self._first_step
        values = {
            "loss_mean": float(self._loss_sum) / self._loss_count,
            "steps_per_second": steps / (time.perf_counter() - self._start),
        }
        conventions = {"batches": self._loss_count, "optimizer_steps": steps, "precision": trainer.precision}
        return [Entry(step, "training", ProbeResult(values), conventions)]
