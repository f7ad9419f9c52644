"""Numbers of probes for whoever monitors them: EarlyStopping, ModelCheckpoint, a scheduler of the learning rate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from probediff.probing.probe import Probe
from probediff.runs.by_step import step_of
from probediff.runs.catalogue import PROBES
from probediff.runs.folder import CHECKPOINTS, MODEL_CHECKPOINTS, RunFolder
from probediff.runs.tracking import Tracker

#: What is recorded at every event beside the probes.
_ALWAYS = ("training", "pass", "timing")


def share_metrics(trainer: L.Trainer, tracker: Tracker) -> None:
    """Put the newest number of every quantity into ``trainer.callback_metrics``; every process must call this.

    The keys are those of loggers, ``probe/<probe>/<quantity>``, the values float64.

    Args:
        trainer: whose metrics they become.
        tracker: knows the numbers, on the first process.
    """
    scalars = trainer.strategy.broadcast(tracker.last_scalars if trainer.is_global_zero else {})
    trainer.callback_metrics.update({key: torch.tensor(value, dtype=torch.float64) for key, value in scalars.items()})


def check_monitors(trainer: L.Trainer, probes: Iterable[Probe], folder: RunFolder) -> None:
    """Check, before training starts, the callbacks that monitor a probe or write checkpoints.

    Args:
        trainer: whose callbacks are checked.
        probes: those that will measure.
        folder: the run's folder.

    Raises:
        ValueError: a callback waits for a number that no probe will give, or would write files that are named like the
            run's own checkpoints.
    """
    probes = list(probes)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        key = getattr(callback, "monitor", None)
        if isinstance(key, str) and key.startswith("probe/"):
            _check_monitor(f"{type(callback).__name__}.monitor", key, probes)
        if isinstance(callback, ModelCheckpoint):
            _check_files(callback, trainer, folder)


def _check_monitor(argument: str, key: str, probes: list[Probe]) -> None:
    names = [*_ALWAYS, *(probe.name() for probe in probes)]
    _, name, quantity = key.split("/", 2) if key.count("/") >= 2 else ("", "", "")
    if name not in names:
        raise ValueError(
            f"{argument} must be probe/<probe>/<quantity> of a probe that is enabled, got {key!r}; there are "
            f"{', '.join(names)}"
        )
    # A probe that is not of this package says what it records when it has done so.
    columns = [column.key for column in PROBES[name].columns if column.kind == "number"] if name in PROBES else ["*"]
    if not any(fnmatchcase(quantity, column) for column in columns):
        raise ValueError(f"{argument} must be a quantity of {name}, got {key!r}; there are {', '.join(columns)}")


def _check_files(callback: ModelCheckpoint, trainer: L.Trainer, folder: RunFolder) -> None:
    own = folder.path / CHECKPOINTS
    # Where Lightning writes to if nobody says otherwise.
    place = callback.dirpath or (None if trainer.loggers else own)
    metrics = {name: torch.tensor(1) for name in ("step", "epoch", callback.monitor or "step")}
    name = Path(callback.format_checkpoint_name(metrics)).name
    if place is not None and os.path.realpath(place) == os.path.realpath(own) and step_of(Path(name)) is not None:
        raise ValueError(
            f"ModelCheckpoint.filename must not give names of the run's own checkpoints, got {name} in {own}; give "
            "another filename or dirpath"
        )


def place_checkpoints(callbacks: Iterable[L.Callback], run_dir: Path) -> dict[str, Any]:
    """Give every ModelCheckpoint without a folder one in the run's own; what a trainer needs to take them."""
    checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
    # What is there is of this run, which goes on.
    warnings.filterwarnings("ignore", message=f"Checkpoint directory .*{MODEL_CHECKPOINTS} exists and is not empty")
    for callback in checkpoints:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = os.path.realpath(run_dir / MODEL_CHECKPOINTS)
    return {"enable_checkpointing": True} if checkpoints else {}


class KeepStopped(L.Callback):
    """Lets EarlyStopping decide in a run that goes on as in one that was never interrupted; comes after the probes.

    By itself Lightning trains another epoch whenever a run is started again that EarlyStopping has ended, takes the
    patience of the checkpoint whatever is configured, and leaves out the check of an epoch whose last step was saved.
    """

    def __init__(self) -> None:
        self._patience: dict[EarlyStopping, int] = {}
        self._lacks_check = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember what is configured, which a checkpoint is about to overwrite."""
        self._patience = {stopping: stopping.patience for stopping in _early_stoppings(trainer)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notice a checkpoint of the last batch of an epoch, before the end of the epoch was told to callbacks."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        is_counted = progress["current"]["completed"] == progress["current"]["processed"]
        self._lacks_check = progress["is_last_batch"] and not is_counted

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The metrics of the last event are there: the check that is lacking can be made."""
        if self._lacks_check:
            for stopping in self._patience:
                stopping.on_train_epoch_end(trainer, pl_module)
                self._stay_stopped(trainer, stopping)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The checkpoint is loaded, and nothing is trained yet."""
        for stopping, patience in self._patience.items():
            stopping.patience = patience
            self._stay_stopped(trainer, stopping)

    def _stay_stopped(self, trainer: L.Trainer, stopping: EarlyStopping) -> None:
        if not _has_stopped(stopping):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            print(
                f"EarlyStopping on {stopping.monitor} has ended this run: nothing is left to train; to go on, raise "
                "its patience, or remove it from trainer.callbacks",
                flush=True,
            )


def _early_stoppings(trainer: L.Trainer) -> Iterator[EarlyStopping]:
    yield from (callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping))  # type: ignore[attr-defined]


def _has_stopped(stopping: EarlyStopping) -> bool:
    if stopping.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return bool(stopping.wait_count >= stopping.patience)
    return bool(stopping.stopping_reason != EarlyStoppingReason.NOT_STOPPED)
