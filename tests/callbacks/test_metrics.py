"""Numbers of probes as metrics of a trainer: EarlyStopping and ModelCheckpoint monitor them, also after a resume."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from probediff.callbacks import InversionAngles, ProbeSchedule, Probing
from probediff.callbacks.metrics import KeepStopped, check_monitors, place_checkpoints
from probediff.data import Digits
from probediff.runs.folder import RunFolder
from probediff.training.checkpoints import newest_loadable, thin_out
from tests.callbacks.score import SCORE, Score
from tests.conftest import ACCELERATOR, tiny_module, tiny_settings

Fit = Callable[..., tuple[Any, L.Trainer]]
EVERY_2 = ProbeSchedule(every_n_steps=2)


class Seen(L.Callback):
    """What callbacks find in the metrics of the trainer after each step, and when a start begins."""

    def __init__(self) -> None:
        self.at: dict[int, float | None] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.at[trainer.global_step] = self._value(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.at[trainer.global_step] = self._value(trainer)

    def _value(self, trainer: L.Trainer) -> float | None:
        value = trainer.callback_metrics.get(SCORE)
        assert value is None or value.dtype == torch.float64
        return None if value is None else float(value)


def test_metrics_hold_the_newest_numbers_after_every_event_and_after_a_resume(fit: Fit, tmp_path: Path) -> None:
    seen, again = Seen(), Seen()
    fit([Score([0.5, 9, 0.25, 9, 0.1]), seen], schedule=EVERY_2, max_steps=3)
    assert seen.at == {0: 0.5, 1: 0.5, 2: 0.25, 3: 9.0}
    path = tmp_path / "run" / "checkpoints" / "step=00000002.ckpt"
    callbacks = [Probing(EVERY_2, tiny_settings(), False), Score([0.5, 9, 0.25, 9, 0.1]), again]
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": ACCELERATOR}
    options |= {"default_root_dir": tmp_path / "run", "use_distributed_sampler": False, "max_steps": 4}
    trainer = L.Trainer(callbacks=callbacks, **options)
    trainer.fit(tiny_module(), datamodule=Digits(batch_size=16), ckpt_path=path, weights_only=True)
    assert again.at == {2: 0.25, 3: 0.25, 4: 0.1}, "step 3 is no longer the last one"


# An epoch is one step, so that every event is checked once, and between two events their number once more.
@pytest.mark.parametrize(
    ("mode", "values", "patience", "stopped"),
    [
        ("max", [1, 0, 2, 0, 3, 0, 2.5, 0, 2.9], 3, 7),  # 3 is best at step 4, again 3 at 5, then 2.5 at 6 and 7
        ("min", [1, 0, 2, 0, 3, 0, 4], 2, 3),
    ],
)
def test_early_stopping_stops_on_a_probe(
    fit: Fit, tmp_path: Path, mode: str, values: list[float], patience: int, stopped: int
) -> None:
    stopping = EarlyStopping(SCORE, patience=patience, mode=mode)
    _, trainer = fit(
        [Score(values), stopping], schedule=EVERY_2, max_steps=10, limit_train_batches=1, enable_checkpointing=False
    )
    assert trainer.global_step == stopped
    folder = RunFolder(tmp_path / "run")
    assert folder.is_finished()
    assert stopped in folder.complete_steps() and stopped in folder.checkpoints()


def test_a_checkpoint_at_every_event_keeps_the_best_by_a_probe(fit: Fit, tmp_path: Path) -> None:
    """In the folder of the run's own checkpoints, which stay as they are."""
    keeping = ModelCheckpoint(monitor=SCORE, mode="max", every_n_train_steps=2, save_last=True)
    values = [9, 9, 1, 9, 3, 9, 2]
    fit([Score(values), keeping], schedule=EVERY_2, max_steps=6, enable_checkpointing=True)
    folder = RunFolder(tmp_path / "run")
    assert (float(keeping.best_model_score), Path(keeping.best_model_path).name) == (3.0, "epoch=0-step=4.ckpt")
    assert keeping.dirpath == str(tmp_path / "run" / "checkpoints")
    assert sorted(path.name for path in Path(keeping.dirpath).glob("[!s]*")) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert list(folder.checkpoints()) == [0, 2, 4, 6]
    thin_out(tmp_path / "run" / "checkpoints", 1)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, max_steps=8, enable_progress_bar=False)
    assert newest_loadable(tmp_path / "run" / "checkpoints", trainer, tiny_module()) == folder.checkpoint_path(6)
    assert "optimizer_states" in torch.load(keeping.best_model_path, weights_only=True)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("probe/scores/value", "of a probe that is enabled, got 'probe/scores/value'; there are training, .*, score"),
        ("probe/whitening/slope", "of a probe that is enabled"),
        ("probe/score", "of a probe that is enabled"),
        ("probe/inversion_angles/at_image_deg", "a quantity of inversion_angles, .*at_image_mean_deg"),
        ("probe/inversion_angles/latents", "a quantity of inversion_angles"),  # a picture
        ("probe/training/loss", "a quantity of training, .*there are loss_mean, steps_per_second"),
    ],
)
def test_what_no_probe_will_give_is_refused_before_training(fit: Fit, tmp_path: Path, key: str, expected: str) -> None:
    for callback in (EarlyStopping(key), ModelCheckpoint(monitor=key)):
        argument = f"{type(callback).__name__}.monitor"
        with pytest.raises(ValueError, match=f"^{re.escape(argument)} must be .*{expected}"):
            fit([Score([1.0]), InversionAngles(), callback], enable_checkpointing=True)
    assert not RunFolder(tmp_path / "run").records()


@pytest.mark.parametrize("filename", ["{step}", "{step:08d}", "step={step:08d}.{epoch}"])
def test_names_of_the_run_s_own_checkpoints_are_refused(tmp_path: Path, filename: str) -> None:
    folder = RunFolder(tmp_path)
    for dirpath, is_refused in ((None, True), (tmp_path / "checkpoints", True), (tmp_path / "others", False)):
        callback = ModelCheckpoint(dirpath, filename, auto_insert_metric_name="=" not in filename)
        trainer = L.Trainer(logger=False, callbacks=[callback], accelerator="cpu")
        if is_refused:
            with pytest.raises(ValueError, match=r"ModelCheckpoint.filename must not give names.*give another"):
                check_monitors(trainer, [], folder)
        else:
            check_monitors(trainer, [], folder)


def test_what_is_monitored_of_others_is_nobody_s_business(tmp_path: Path) -> None:
    callbacks = [EarlyStopping("val_loss"), EarlyStopping("probe/score/any"), ModelCheckpoint()]
    trainer = L.Trainer(logger=False, callbacks=callbacks, accelerator="cpu")
    check_monitors(trainer, [Score([1.0])], RunFolder(tmp_path))


def test_only_checkpoints_need_checkpointing(tmp_path: Path) -> None:
    placed, given = ModelCheckpoint(), ModelCheckpoint(tmp_path / "mine")
    assert place_checkpoints([EarlyStopping("a")], tmp_path) == {}
    assert place_checkpoints([placed, given], tmp_path) == {"enable_checkpointing": True}
    assert placed.dirpath == str((tmp_path / "model_checkpoints").resolve())
    assert given.dirpath == str((tmp_path / "mine").resolve())


@pytest.mark.parametrize(("patience", "is_over"), [(2, True), (1, True), (5, False)])
def test_a_run_that_was_stopped_stays_so_unless_its_patience_is_raised(
    patience: int, is_over: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping, there = (EarlyStopping(SCORE, patience=value) for value in (patience, 2))
    for value in (1.0, 2.0, 3.0):
        there._evaluate_stopping_criteria(torch.tensor(value))
    trainer = L.Trainer(logger=False, callbacks=[stopping], accelerator="cpu", enable_checkpointing=False)
    keeping = KeepStopped()
    keeping.setup(trainer, tiny_module(), "fit")
    stopping.load_state_dict(there.state_dict())
    keeping.on_fit_start(trainer, tiny_module())
    assert (trainer.should_stop, stopping.patience) == (is_over, patience)
    assert ("has ended this run" in capsys.readouterr().out) is is_over


def test_a_value_that_is_not_finite_stops_for_good(capsys: pytest.CaptureFixture[str]) -> None:
    stopping = EarlyStopping(SCORE, patience=9)
    trainer = L.Trainer(logger=False, callbacks=[stopping], accelerator="cpu", enable_checkpointing=False)
    keeping = KeepStopped()
    keeping.setup(trainer, tiny_module(), "fit")
    keeping.on_fit_start(trainer, tiny_module())
    assert not trainer.should_stop
    stopping._evaluate_stopping_criteria(torch.tensor(math.nan))
    keeping.on_fit_start(trainer, tiny_module())
    assert trainer.should_stop
    assert SCORE in capsys.readouterr().out
