"""A real ``wandb agent`` runs ``sweeps/smoke.yaml``: failures, signals, and a trial that is started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from probediff.runs.folder import RunFolder
from probediff.sweep.expand import expand
from probediff.sweep.file import read_sweep
from tests.sweep.standin import StandIn, Trials
from tests.sweep.test_local import FAKE

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "sweeps" / "smoke.yaml"
FIRST, SECOND = expand(read_sweep(SMOKE))


def start_agent(folder: Path, trials: Trials, sweep: str) -> subprocess.Popen[str]:
    """An agent in ``folder``, as a shell would start it; training itself is offline."""
    server = StandIn(sweep, trials)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "PYTEST_"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_MODE": "offline",
    }
    command = [sys.executable, "-m", "wandb", "agent", "--forward-signals", "--term-timeout", "120"]
    with (folder / "agent.log").open("a") as log:
        return subprocess.Popen(
            [*command, "someone/probediff/smoke1"], cwd=folder, env=environment, text=True, stdout=log, stderr=log
        )


def wait_until(done: Callable[[], bool], agent: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert agent.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def recorded(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def assert_trained(folder: Path, values: dict[str, Any]) -> None:
    """Finished once, with the sweep's values in configuration and records, by two processes."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: recorded(config, key) for key in values} == values
    records = RunFolder(folder).records()
    assert len({(record["probe"], record["step"]) for record in records}) == len(records)
    assert [r["step"] for r in records if r["probe"] == "pixel_correlation"] == [0, 10, 50, 100]
    assert {r["values"]["k"] for r in records if r["probe"] == "pixel_correlation"} == {values["pixel_correlation.k"]}
    assert [r["probe"] for r in records].count("run") == 1
    assert str(config["trainer"]["devices"]) == "2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user stands: configurations in configs/."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


def test_an_agent_stops_a_trial_and_another_run_goes_on_with_it(folder: Path) -> None:
    """Trials that train nothing."""
    values = {"a": 5}
    sweep = yaml.safe_dump({"method": "grid", "command": FAKE, "parameters": {"a": {"value": 5}}})
    runs, log = folder / "runs" / "sweep-smoke1", folder / "agent.log"
    runs.mkdir(parents=True)
    (runs / "gate").touch()
    agent, trial = start_agent(folder, [("two", values)], sweep), RunFolder(runs / "a=5")
    wait_until(lambda: len(trial.records()) > 0, agent, log)
    agent.send_signal(signal.SIGTERM)
    agent.wait(timeout=120)
    assert not trial.is_finished()
    (runs / "gate").unlink()
    assert start_agent(folder, [("three", values)], sweep).wait(timeout=240) == 0, log.read_text()
    assert trial.is_finished()
    assert [record["step"] for record in trial.records()] == [1, 2, 3, 3]
    assert (trial.lineage()["trial"], trial.lineage()["continues"]) == ("three", ["two"])
    assert trial.lineage()["values"] == values


@pytest.mark.slow
def test_an_agent_runs_the_smoke_sweep(folder: Path) -> None:
    """A trial fails, the next one trains, the last one is stopped by a signal and goes on under another run id."""
    runs, log = folder / "runs" / "sweep-smoke1", folder / "agent.log"
    agent = start_agent(
        folder, [("bad", SECOND | {"pixel_correlation.k": 0}), ("one", FIRST), ("two", SECOND)], SMOKE.read_text()
    )
    stopped = runs / "pixel_correlation.k=5,seed_everything=10"
    wait_until(lambda: len(RunFolder(stopped).records()) > 0, agent, log)
    agent.send_signal(signal.SIGTERM)
    agent.wait(timeout=120)
    assert "stopped by SIGTERM" in log.read_text()
    assert not RunFolder(stopped).is_finished()
    step = max(int(path.stem.removeprefix("step=")) for path in (stopped / "checkpoints").iterdir())

    assert "pixel_correlation.k must be at least 1, got 0" in log.read_text()
    finished = runs / "pixel_correlation.k=5,seed_everything=0"
    assert_trained(finished, FIRST)

    again = start_agent(folder, [("three", SECOND)], SMOKE.read_text())
    assert again.wait(timeout=240) == 0, log.read_text()
    assert f"going on from {(stopped / 'checkpoints').relative_to(folder)}/step={step:08d}.ckpt" in log.read_text()
    assert_trained(stopped, SECOND)
    assert RunFolder(stopped).lineage()["continues"] == ["two"]
    assert RunFolder(stopped).lineage()["trial"] == "three"
    assert RunFolder(finished).lineage()["continues"] == []
    assert RunFolder(stopped).lineage()["id"] != RunFolder(finished).lineage()["id"]
    assert {path.name for path in runs.iterdir()} == {finished.name, stopped.name}
    losses = [[r["values"] for r in RunFolder(f).records() if r["probe"] == "training"] for f in (finished, stopped)]
    assert json.dumps(losses[0]) != json.dumps(losses[1]), "each has its own seed"
    assert {path.name.rpartition("-")[2] for path in stopped.glob("wandb/offline-run-*")} == {"two", "three"}
