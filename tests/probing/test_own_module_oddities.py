"""What modules of one's own do that ours never do: no average, other shapes, steps and data without a known number."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from probediff.callbacks import InversionAngles, ProbeSchedule, Probing
from probediff.callbacks.due_steps import last_step
from probediff.models import ProbeModel
from probediff.models.base import Weights
from probediff.runs.folder import RunFolder
from tests.conftest import tiny_settings
from tests.probing.own_modules import Plain

EVERY_STEP = ProbeSchedule(every_n_steps=1)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.zeros(6, 1, 8, 8)


class TwoSteps(Plain):
    """Two steps of the optimiser a batch, as a GAN has; nobody knows it before, nor how many batches there are."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward(self.network(batch, torch.zeros(len(batch)))[:, :1].square().mean())
            optimizer.step()


class Failing(Plain):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        raise KeyError("batch")


class Growing(TwoSteps):
    def probe_model(self, weights: Weights, ema_rate: float | None) -> ProbeModel:
        model = super().probe_model(weights, ema_rate)
        size = 8 if self.global_step == 0 else 4
        return ProbeModel(model.eps_model, model.schedule, (1, size, size), 0, model.conventions)


def train(module: L.LightningModule, run: Path, **options: Any) -> None:
    probing = Probing(EVERY_STEP, tiny_settings(**({"weights": "raw", "num_samples": 2} | options)), False)
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=run, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probing, InversionAngles()], max_epochs=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Endless(), batch_size=2))


def test_steps_that_nobody_counts_before_are_probed_and_what_cannot_be_checked_is_told_once(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(TwoSteps(), tmp_path)
    assert RunFolder(tmp_path).complete_steps() == {0, 2, 4, 6}
    assert sum("wiring not checked" in str(warning.message) for warning in told) == 1


@pytest.mark.parametrize(
    ("automatic", "max_steps", "estimated", "expected"),
    [
        (True, 9, 5, 5),
        (True, -1, 5.0, 5),
        (True, -1, -1, 1_000_000),
        (True, -1, float("inf"), 1_000_000),
        (False, 9, 5, 9),
        (False, -1, 5, 1_000_000),
    ],
)
def test_the_last_step(automatic: bool, max_steps: int, estimated: float, expected: int) -> None:
    trainer: Any = SimpleNamespace(max_steps=max_steps, estimated_stepping_batches=estimated)
    module: Any = SimpleNamespace(automatic_optimization=automatic)
    assert last_step(trainer, module) == expected


def test_signals_and_folder_are_given_back_after_an_error(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError, match="batch"):
        train(Failing(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler


def test_images_of_another_shape_are_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image_shape must stay \(1, 8, 8\) in a run, got \(1, 4, 4\) at step 2"):
        train(Growing(), tmp_path)
    assert RunFolder(tmp_path).complete_steps() == {0}
