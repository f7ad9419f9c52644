"""W&B begins when something is logged; a run that goes on sends what W&B's logs lack: each result is there once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch.loggers.logger import DummyExperiment

from probediff.runs.folder import RunFolder
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings
from probediff.runs.results import ProbeResult
from probediff.runs.tracking import Tracker
from probediff.runs.wandb_files import read_logged_results
from tests.commands import forked
from tests.reference.wandb_log import finished_history
from tests.runs.wandb_starts import (
    BLOCK,
    MANY,
    angles,
    assert_each_record_once,
    event,
    logged_rows,
    logs,
    run_id,
    start,
    train,
)


def test_nothing_is_written_before_something_is_logged(tmp_path: Path) -> None:
    root = tmp_path / "run"
    logger = FailsafeWandbLogger(WandbSettings(mode="offline"), root)
    assert isinstance(logger.experiment, DummyExperiment)
    assert (logger.name, logger.save_dir) == ("probediff", str(root))
    assert logger.version
    assert logger.missing_events([]) == []
    logger.finalize("failed")
    assert not root.exists()
    expected = logger.version
    logger.log_metrics({"train/loss": 1.0}, 1)
    assert (logger.version, run_id(root), logger.experiment.id) == (expected,) * 3
    logger.finalize("success")
    assert logger.version == expected


def test_a_disabled_logger_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = FailsafeWandbLogger(WandbSettings(), tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.log_result(1, "angles", angles(1))
    assert logger.missing_events([(1, "angles")]) == []
    logger.finalize("success")
    assert not list(tmp_path.iterdir())


def test_a_run_that_could_not_begin_has_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no disk for wandb")

    _, tracker = start(tmp_path)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="no disk for wandb"):
        patch.setattr("wandb.init", refuse)
        tracker.log(event(0))
    assert not (tmp_path / "wandb_id.txt").exists()
    assert train(tmp_path, [1]) == 2
    assert_each_record_once(tmp_path)


def log_until_killed(root: Path, steps: Sequence[int]) -> None:
    """A start that SIGKILL ends right after its last event, with W&B's service."""
    os.environ.pop("WANDB_SERVICE", None)  # that of this process's parent
    _, tracker = start(root)
    tracker.send_again()
    for step in steps:
        tracker.log(event(step))
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_start(root: Path, steps: Sequence[int]) -> None:
    process = forked.CONTEXT.Process(target=log_until_killed, args=(root, steps))
    process.start()
    assert forked.wait(process) == -signal.SIGKILL


def test_what_was_lost_with_killed_processes_is_sent_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kill_start(tmp_path, [0, 2])
    assert read_logged_results(tmp_path, run_id(tmp_path)) == {}  # all of it was in W&B's 32 KiB
    kill_start(tmp_path, [5])  # what it had sent again is lost with it
    assert read_logged_results(tmp_path, run_id(tmp_path)) == {}
    assert train(tmp_path, [7]) == 6
    assert "W&B lacked 6 results of steps 0 to 5: sent again" in capsys.readouterr().out
    assert_each_record_once(tmp_path)
    assert train(tmp_path, [8]) == 0
    assert capsys.readouterr().out == ""
    assert_each_record_once(tmp_path)
    assert len(logs(tmp_path)) == 4


@pytest.mark.parametrize("size", [0, 7, 20_000, BLOCK, 2 * BLOCK])
def test_what_a_cut_log_lacks_is_sent_again(finished: Path, tmp_path: Path, size: int) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root, symlinks=True)
    (log,) = logs(root)
    os.truncate(log, size)
    left = read_logged_results(root, run_id(root))
    assert left is not None
    assert train(root, []) == 2 * len(MANY) - len(left)
    assert_each_record_once(root)


def test_everything_is_sent_where_wandb_has_no_run_yet(tmp_path: Path) -> None:
    Tracker(RunFolder(tmp_path).create(), []).log(event(0))
    assert train(tmp_path, [1]) == 2
    assert_each_record_once(tmp_path)


@pytest.mark.parametrize("damage", ["", "\n", "abcd1234", "\0" * 9 + "\n", "a b\n"])
def test_a_damaged_id_gives_a_new_run_with_everything(finished: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    old = run_id(finished)
    (tmp_path / "run" / "wandb_id.txt").write_text(damage)
    with pytest.warns(UserWarning, match="wandb_id.txt is damaged: W&B gets the run as a new one"):
        assert train(tmp_path / "run", []) == 2 * len(MANY)
    assert run_id(tmp_path / "run") != old


def test_a_sweeps_agent_that_gives_another_id_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, [0])
    begin = wandb.init
    monkeypatch.setattr("wandb.init", lambda **settings: begin(**settings | {"id": "of-agent"}))
    assert train(tmp_path, [1]) == 2
    assert run_id(tmp_path) == "of-agent"
    logged = read_logged_results(tmp_path, "of-agent")
    assert logged is not None
    assert {step for step, _ in logged} == {0, 1}


def test_nothing_is_sent_where_logs_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user has synchronised them to W&B, and removed them."""
    for step in range(2):
        train(tmp_path, [step])
    shutil.rmtree(logs(tmp_path)[0].parent)
    assert train(tmp_path, [2]) == 0
    assert "is not known" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "wandb")
    assert train(tmp_path, [3]) == 0
    assert capsys.readouterr().out.count("nothing is sent again") == 1
    (log,) = logs(tmp_path)
    assert {row["trainer/global_step"] for row in finished_history(log)} == {3}


def test_what_is_measured_again_is_sent_where_it_has_changed(tmp_path: Path) -> None:
    train(tmp_path, [0, 1, 2])
    RunFolder(tmp_path).rewind(0)
    assert train(tmp_path, [1]) == 0
    assert len(logged_rows(tmp_path)) == 6  # the numbers are the same, and W&B has them
    assert [record["step"] for record in RunFolder(tmp_path).records()] == [0, 0, 1, 1]
    RunFolder(tmp_path).rewind(0)
    train(tmp_path, [1], change=0.5)
    changed = [row for _, row in logged_rows(tmp_path) if row.get("probe/angles/mean_deg") == 1 + 1 / 3 + 0.5]
    assert [row["trainer/global_step"] for row in changed] == [1]
    assert len(logged_rows(tmp_path)) == 7


def test_standard_errors_that_wandb_lacks_are_sent_once(tmp_path: Path) -> None:
    """It got the numbers from a version that had none."""
    for errors in ({}, {"x": 0.1}, {"x": 0.1}):
        logger, _ = start(tmp_path)
        logger.log_result(5, "a", ProbeResult({"x": 1.0}, standard_errors=errors))
        logger.finalize("success")
        for path in logs(tmp_path):
            finished_history(path)
    assert [row.get("standard_error/a/x") for _, row in logged_rows(tmp_path)] == [None, 0.1]


def test_a_picture_that_has_changed_is_sent(tmp_path: Path) -> None:
    pictures = [torch.full((3, 4, 4), level, dtype=torch.uint8) for level in (1, 1, 2)]
    for picture in pictures:
        logger, _ = start(tmp_path)
        logger.log_result(5, "shown_final", ProbeResult(pictures={"over_training": picture}))
        logger.finalize("success")
        # W&B writes from a process of its own.
        for path in logs(tmp_path):
            finished_history(path)
    assert len(logged_rows(tmp_path)) == 2


def test_a_failure_while_sending_again_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tracker = start(tmp_path)
    Tracker(RunFolder(tmp_path), []).log(event(0))

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("probediff.runs.loggers.payload_of", fail)
    with pytest.warns(UserWarning, match=r"Weights & Biases failed.*the disk is gone.*Training goes on"):
        tracker.send_again()
    tracker.log(event(1))
    wandb.finish()
    assert [record["step"] for record in RunFolder(tmp_path).records()] == [0, 0, 1, 1]
