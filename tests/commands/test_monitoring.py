"""EarlyStopping, ModelCheckpoint and loggers in the configuration of ``fit``: with one process, with two, and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from probediff.__main__ import main
from probediff.commands.options import available_probes
from probediff.runs.folder import RunFolder
from tests.commands import forked
from tests.conftest import ROOT, TINY_RUN

#: Best at step 4, and checked twice between two events.
VALUES = [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 1.5, 0.0, 1.0, 0.0, 0.5]
SCORE = "probe/score/value"


def write_config(path: Path, patience: int = 3, **trainer: Any) -> Path:
    """What a user adds to a configuration to stop on a probe of his own, and keep the best by it; an epoch a step."""
    monitoring = {"monitor": SCORE, "mode": "max"}
    callbacks = [
        {"class_path": "tests.callbacks.score.Score", "init_args": {"values": VALUES}},
        {"class_path": "EarlyStopping", "init_args": {**monitoring, "patience": patience}},
        {"class_path": "ModelCheckpoint", "init_args": {**monitoring, "every_n_train_steps": 2, "filename": "{step}"}},
    ]
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "limit_train_batches": 1} | trainer}))
    return path


def arguments(config: Path, run_dir: Path, *others: str) -> list[str]:
    base = ["fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--config", str(config), *TINY_RUN]
    schedule = ["--probing.schedule.steps=[]", "--probing.schedule.every_n_steps=2", "--trainer.max_steps=10"]
    off = [f"--{probe}.enabled=false" for probe in available_probes()]
    return [*base, *schedule, *off, "--run_dir", str(run_dir), *others]


def scores(run_dir: Path) -> dict[int, float]:
    return {r["step"]: r["values"]["value"] for r in RunFolder(run_dir).records() if r["probe"] == "score"}


def assert_stopped_with_the_best(run_dir: Path, last_step: int = 7) -> None:
    """The run has ended at the step, whose event is there, and its best checkpoint is that of step 4."""
    folder = RunFolder(run_dir)
    assert scores(run_dir) == {step: VALUES[step] for step in (0, 2, 4, 6, last_step)}
    assert folder.is_finished()
    assert list(folder.checkpoints()) == [0, 2, 4, 6, last_step]
    (best,) = (run_dir / "model_checkpoints").iterdir()
    assert (best.name, torch.load(best, weights_only=True)["global_step"]) == ("step=4.ckpt", 4)


def test_fit_stops_on_a_probe_keeps_the_best_and_stays_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, config = tmp_path / "run", write_config(tmp_path / "mine.yaml")
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'csv'}"]
    assert main(arguments(config, run_dir, *logger)) == 0
    assert_stopped_with_the_best(run_dir)
    (metrics,) = (tmp_path / "csv").rglob("metrics.csv")
    assert SCORE in metrics.read_text().splitlines()[0]
    before = (run_dir / "records.jsonl").read_text()
    capsys.readouterr()
    assert main(arguments(config, run_dir, "--resume=auto", *logger)) == 0
    assert f"EarlyStopping on {SCORE} has ended this run: nothing is left to train" in capsys.readouterr().out
    assert_stopped_with_the_best(run_dir)
    assert len(before.splitlines()) == len((run_dir / "records.jsonl").read_text().splitlines())
    # With more patience the same run goes on.
    write_config(config, patience=9)
    assert main(arguments(config, run_dir, "--resume=auto", *logger)) == 0
    assert list(scores(run_dir)) == [0, 2, 4, 6, 7, 8, 10]


def test_a_run_that_stopped_at_a_step_that_was_due_stays_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last checkpoint was written before EarlyStopping decided."""
    run_dir, config = tmp_path / "run", write_config(tmp_path / "mine.yaml", patience=4)
    for options in ([], ["--resume=auto"]):
        assert main(arguments(config, run_dir, *options)) == 0
        assert_stopped_with_the_best(run_dir, last_step=8)
        assert ("has ended this run: nothing is left to train" in capsys.readouterr().out) is bool(options)


def test_two_processes_stop_and_keep_as_one(tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    config = write_config(tmp_path / "mine.yaml", devices=2, strategy="ddp")
    processes = forked.start_together(arguments(config, run_dir), log, 2)
    assert [forked.wait(process) for process in processes] == [0, 0], log.read_text()
    assert_stopped_with_the_best(run_dir)


def test_a_misspelt_monitor_is_one_line_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "mine.yaml")
    config.write_text(config.read_text().replace("probe/score/value", "probe/scor/value"))
    assert main(arguments(config, tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert "error: EarlyStopping.monitor must be probe/<probe>/<quantity> of a probe that is enabled" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("run/checkpoints/*.ckpt"))
