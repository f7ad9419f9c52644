"""Progress of a training in a log file: a line an event or a minute, however many steps there are."""

import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from probediff.display.progress import LINE_EVERY_SEC
from probediff.training.module import DiffusionModule


class ProgressLines(ProgressBar):
    """Takes the place of Lightning's bar where standard output is no terminal.

    The loss is read when a line is written, not at every step: reading it waits for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_enabled = True
        self._loss: Tensor | None = None

    def disable(self) -> None:
        """Write nothing, as Lightning asks of all processes but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Write again."""
        self._is_enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        """Begin to count."""
        self._last_step = trainer.estimated_stepping_batches
        self._first_step = self._written_step = trainer.global_step
        self._started_at = self._written_at = time.monotonic()
        self._checkpoint = pl_module.last_checkpoint

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: DiffusionModule, *_: Any) -> None:  # type: ignore[override]
        """After an event of the step before, or a minute: say where the training is."""
        is_due = pl_module.last_checkpoint != self._checkpoint or time.monotonic() - self._written_at >= LINE_EVERY_SEC
        if is_due and trainer.global_step > self._written_step:
            self._checkpoint = pl_module.last_checkpoint
            self._write(trainer)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict[str, Tensor], *_: Any
    ) -> None:
        """Remember the loss, which Lightning has divided by the number of batches a step."""
        self._loss = outputs["loss"].detach() * trainer.accumulate_grad_batches

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last line."""
        if trainer.global_step > self._written_step:
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        step, now = trainer.global_step, time.monotonic()
        speed = (step - self._written_step) / max(now - self._written_at, 1e-9)
        # With the time that events take: they are ahead, too.
        left = (self._last_step - step) * (now - self._started_at) / (step - self._first_step)
        self._written_step, self._written_at = step, now
        if self._is_enabled:
            loss = math.nan if self._loss is None else float(self._loss)
            time_left = timedelta(seconds=round(left)) if math.isfinite(left) else "unknown time"
            print(
                f"step {step:,} of {self._last_step:,}: loss {loss:.4g}, {speed:.3g} steps/s, {time_left} left",
                flush=True,
            )
