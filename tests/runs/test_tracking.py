"""Weights & Biases: what an offline run holds, when it is offline, and that its failures stop nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from probediff.probing import ProbeResult
from probediff.runs.folder import RunFolder
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings, resolve_mode
from probediff.runs.tracking import Entry, Tracker
from tests.conftest import all_probes
from tests.reference.wandb_log import history

Fit = Callable[..., tuple[Any, L.Trainer]]


def test_an_offline_run_holds_every_number_and_picture(fit: Fit, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    fit(all_probes(), logger=FailsafeWandbLogger(WandbSettings(mode="offline"), root), log_every_n_steps=1)
    rows = history(root)
    records = RunFolder(root).records()
    assert len(records) > 10
    for record in records:
        prefix = f"probe/{record['probe']}/"
        of_step = [row for row in rows if row["trainer/global_step"] == record["step"]]
        found = [row for row in of_step if any(key.startswith(prefix) for key in row)]
        assert len(found) == 1, (prefix, record["step"], [sorted(row) for row in rows])
        (row,) = found
        for key, value in record["values"].items():
            assert row[prefix + key] == pytest.approx(value), prefix + key
    for name in ("fixed_noise_generation/samples", "inversion_angles/latents", "assignment_accuracy/hubs"):
        shown = [row for row in rows if row.get(f"probe/{name}/_type") == "image-file"]
        assert [row["trainer/global_step"] for row in shown] == [0, 2, 5]
        for row in shown:
            assert len(list(root.glob(f"wandb/offline-run-*/files/{row[f'probe/{name}/path']}"))) == 1
            assert f"training step {row['trainer/global_step']}" in row[f"probe/{name}/caption"]
    histograms = [row for row in rows if row.get("probe/inversion_angles/at_image_deg_histogram/_type") == "histogram"]
    assert len(histograms) == 3
    assert [row["trainer/global_step"] for row in rows if "train/loss" in row] == list(range(5))


def test_the_first_failure_is_reported_and_nothing_more_is_tried(tmp_path: Path) -> None:
    logger = FailsafeWandbLogger(WandbSettings(mode="offline"), tmp_path)
    calls = []

    class Broken:
        id, dir = "abcd1234", str(tmp_path / "wandb" / "run-abcd1234" / "files")

        def log(self, payload: dict[str, Any]) -> None:
            calls.append(payload)
            raise ConnectionError("server is gone")

    logger._experiment = Broken()  # type: ignore[assignment]
    tracker = Tracker(RunFolder(tmp_path).create(), [logger])
    with pytest.warns(UserWarning, match=r"Weights & Biases failed .*server is gone.*Training goes on"):
        tracker.log([Entry(1, "a", ProbeResult({"x": 1.0}), {})])
    tracker.log([Entry(2, "a", ProbeResult({"x": 2.0}), {})])
    logger.log_metrics({"train/loss": 1.0}, 3)
    logger.log_hyperparams({"a": 1})
    logger.finalize("success")
    assert len(calls) == 1
    assert logger.version is None
    assert [record["step"] for record in RunFolder(tmp_path).records()] == [1, 2]


def test_a_run_goes_on_when_wandb_cannot_start(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no disk for wandb")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.warns(UserWarning, match="no disk for wandb"):
        _, trainer = fit(
            all_probes(), logger=FailsafeWandbLogger(WandbSettings(mode="offline"), tmp_path), log_every_n_steps=1
        )
    assert trainer.global_step == 5
    assert len(RunFolder(tmp_path / "run").records()) > 10


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_stop_a_run(tmp_path: Path) -> None:
    """In a process of its own, because W&B reads the address of its server once."""
    script = """
import sys
from pathlib import Path
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings
logger = FailsafeWandbLogger(WandbSettings(mode="auto"), Path(sys.argv[1]))
logger.log_metrics({"x": 1.0}, 1)
print("failed", logger.failed)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40, "WANDB_INIT_TIMEOUT": "3"}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
        environment.pop("WANDB_MODE", None)
        command = [sys.executable, "-c", script, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert "failed True" in done.stdout, done.stderr
    assert "Training goes on" in done.stderr


def test_mode_auto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        assert resolve_mode("auto") == "offline"
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        assert resolve_mode("auto") == "online"
        monkeypatch.delenv("WANDB_API_KEY")
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password " + "k" * 40)
        (tmp_path / ".netrc").chmod(0o600)
        assert resolve_mode("auto") == "online"
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("online") == "online"


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    settings = WandbSettings(mode="offline")
    loggers = [FailsafeWandbLogger(settings, tmp_path) for _ in range(2)]
    for logger in loggers:
        logger.log_metrics({"x": 1.0}, 1)
        logger.finalize("success")
    assert loggers[0].version == loggers[1].version
    files = {path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb")}
    assert files == {f"run-{loggers[0].version}.wandb"}


def test_keys_stay_out_of_the_run_folder(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0123456789abcdef" * 2 + "deadbeef"
    monkeypatch.setenv("WANDB_API_KEY", key)
    root = tmp_path / "run"
    root.mkdir()
    fit(all_probes(), logger=FailsafeWandbLogger(WandbSettings(mode="offline"), root))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert key.encode() not in path.read_bytes(), path
