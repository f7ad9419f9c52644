"""The schedule and the shared pass: at due steps save a checkpoint, generate, invert, and ask every probe."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tqdm.auto import tqdm

from callbacks.base import Probe, ProbeContext
from callbacks.schedule import ProbeSchedule
from probediff.module import DiffusionModule
from probediff.probing import Advance, PassSettings, ProbePass, ProbeResult, run_pass, undisturbed
from probediff.records import RunFolder
from probediff.tracking import Tracker


class Probing(L.Callback):
    """Probes a run at checkpoints: saves a checkpoint, runs the shared pass once, hands it to all enabled probes.

    Probes are found among the trainer's callbacks. Everything goes to the trainer's ``default_root_dir`` and to W&B.

    Args:
        schedule: when to probe.
        settings: what to generate and how.
        progress: show how far a probe pass is.
    """

    def __init__(
        self,
        schedule: ProbeSchedule = ProbeSchedule(),  # noqa: B008 (frozen)
        settings: PassSettings = PassSettings(),  # noqa: B008 (frozen)
        progress: bool = True,
    ) -> None:
        self.schedule = schedule
        self.settings = settings
        self.progress = progress
        self._probed_at = -1
        self._due: frozenset[int] = frozenset()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check everything that can be known before the first training step."""
        if not isinstance(pl_module, DiffusionModule):
            raise ValueError(f"Probing needs a probediff DiffusionModule, got {type(pl_module).__name__}")
        self.settings.check(pl_module.schedule)
        pl_module.probe_model(self.settings.weights, self.settings.ema_rate)
        self.probes = [c for c in trainer.callbacks if isinstance(c, Probe) and c.enabled]  # type: ignore[attr-defined]
        folder = RunFolder(trainer.default_root_dir)
        if trainer.is_global_zero:
            folder.create()
        self.context = ProbeContext(self.settings, pl_module.image_shape, folder)
        self.tracker = Tracker(folder, trainer.loggers)
        self.conventions = self._conventions(pl_module)
        for probe in self.probes:
            probe.check(self.context)

    def _conventions(self, module: DiffusionModule) -> dict[str, Any]:
        """All that a probe's number depends on beside the weights, as plain types for the record."""
        rates = module.ema.rates
        rate = None if self.settings.weights == "raw" else self.settings.ema_rate or rates[0]
        model = {
            "ema_rate": rate,
            "schedule": module.schedule_name,
            "num_train_timesteps": len(module.schedule),
            "image_shape": list(self.context.image_shape),
            "dtype": str(next(module.eps_model.parameters()).dtype).removeprefix("torch."),
        }
        return asdict(self.settings) | model

    def on_train_start(self, trainer: L.Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        """Probe the untrained model."""
        last_step = trainer.estimated_stepping_batches
        if math.isinf(last_step):
            raise MisconfigurationException(
                "trainer.max_steps (or trainer.max_epochs) must be set: without an end there is no last step to probe"
            )
        self._due = self.schedule.until(int(last_step))
        self._loss_sum = torch.zeros((), device=pl_module.device)
        self._loss_count = 0
        self._interval_start = time.perf_counter()
        if trainer.global_step == 0:
            self._probe(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: DiffusionModule, outputs: dict[str, torch.Tensor], batch: object, _: int
    ) -> None:
        """Probe at due steps."""
        self._loss_sum += outputs["loss"].detach()
        self._loss_count += 1
        if trainer.global_step in self._due and trainer.global_step != self._probed_at:
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: DiffusionModule) -> None:  # type: ignore[override]
        """Probe the last step if it was not due, then let probes look back over the whole run."""
        if trainer.global_step != self._probed_at:
            self._probe(trainer, pl_module)
        if trainer.is_global_zero:
            with undisturbed(pl_module):
                for probe in self.probes:
                    for step, result in probe.finish(self.context).items():
                        self.tracker.log(step, f"{probe.name()}_final", result, self.conventions)

    def _probe(self, trainer: L.Trainer, pl_module: DiffusionModule) -> None:
        step = self._probed_at = trainer.global_step
        pl_module.raise_if_not_finite()
        self._record_training(trainer, step)
        path = self.context.folder.checkpoint_path(step)
        trainer.save_checkpoint(path, weights_only=False)
        pl_module.last_checkpoint = path
        if self.probes:
            with undisturbed(pl_module), self._progress(trainer, step) as advance:
                invert = any(probe.needs_latent for probe in self.probes)
                model = pl_module.probe_model(self.settings.weights, self.settings.ema_rate)
                start = time.perf_counter()
                event = run_pass(
                    model, pl_module.schedule, self.settings, self.context.image_shape, step, invert, advance
                )
                if trainer.is_global_zero:
                    self._measure_all(event, time.perf_counter() - start, advance)
        self._interval_start = time.perf_counter()

    def _measure_all(self, event: ProbePass, pass_seconds: float, advance: Advance) -> None:
        folder, conventions = self.context.folder, self.conventions
        folder.save_samples(event.step, event.x_0)
        seconds = {"pass": pass_seconds}
        for done, probe in enumerate(self.probes):
            advance(probe.name(), done, len(self.probes))
            start = time.perf_counter()
            try:
                result = probe.measure(event)
            except ValueError as error:
                # A degenerate sample set (say, constant images) must not end days of training.
                warnings.warn(f"{probe.name()} has no result at step {event.step}: {error}", stacklevel=2)
                folder.append({"step": event.step, "probe": probe.name(), "values": {}, "error": str(error)})
                continue
            seconds[probe.name()] = time.perf_counter() - start
            self.tracker.log(event.step, probe.name(), result, conventions, seconds[probe.name()])
        timing = {f"{part}_seconds": value for part, value in seconds.items()}
        self.tracker.log(event.step, "timing", ProbeResult(values=timing), conventions)

    def _record_training(self, trainer: L.Trainer, step: int) -> None:
        """Mean loss and speed since the last event, as a record like any other."""
        if trainer.is_global_zero and self._loss_count:
            seconds = time.perf_counter() - self._interval_start
            values = {
                "loss_mean": float(self._loss_sum) / self._loss_count,
                "steps_per_second": self._loss_count / seconds,
                "epoch": float(trainer.current_epoch),
            }
            conventions = {"batches": self._loss_count, "precision": trainer.precision}
            self.tracker.log(step, "training", ProbeResult(values=values), conventions)
        self._loss_sum.zero_()
        self._loss_count = 0

    @contextmanager
    def _progress(self, trainer: L.Trainer, step: int) -> Iterator[Advance]:
        hidden = not (self.progress and trainer.is_global_zero)
        with tqdm(desc=f"probing step {step}", disable=hidden, leave=False, position=1, mininterval=0.5) as bar:

            def advance(part: str, done: int, total: int) -> None:
                if bar.total != total or part not in bar.desc:
                    bar.reset(total)
                    bar.set_description(f"probing step {step}: {part}", refresh=False)
                bar.update(done - bar.n)

            yield advance
