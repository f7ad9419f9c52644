"""Signals: what a run that is stopped says and leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probediff.runs.folder import RunFolder
from tests.commands import forked
from tests.conftest import TINY_RUN

ROOT = Path(__file__).parents[2]
COMMAND = ["--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN]


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status", "delay"),
    [
        (signal.SIGINT, 130, 0.3),
        (signal.SIGTERM, 75, 2.0),
        *(pytest.param(signal.SIGINT, 130, 0.2 * k, marks=pytest.mark.slow) for k in range(2, 20)),
    ],
)
def test_a_signal_in_the_first_seconds_is_told_in_words(number: int, status: int, delay: float, tmp_path: Path) -> None:
    """A real process, while it imports."""
    command = [sys.executable, "-m", "probediff", "fit", *COMMAND, "--run_dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    time.sleep(delay)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert f"probediff fit: stopped by {signal.Signals(number).name}" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """Within a long pass, which would go on to its next batch; the checkpoint of its step is there."""
    run, log = tmp_path / "run", tmp_path / "log"
    many = ["--probing.settings.num_samples=1500", "--probing.settings.batch_size=1500"]
    process = forked.start(["fit", *COMMAND, *many, "--run_dir", str(run)], log)
    wait_until(lambda: bool(RunFolder(run).checkpoints()))
    assert process.pid is not None
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    assert forked.wait(process) == 130
    output = log.read_text()
    assert "SIGINT: saving and stopping; Ctrl-C again stops at once" in output
    assert "go on" in output
    assert "Traceback" not in output
    assert RunFolder(run).checkpoints()


def test_ctrl_c_in_a_terminal_reaches_the_data_workers_too(tmp_path: Path) -> None:
    """The whole process group gets it; the run still saves, and is told to stop once."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "probediff", "fit", *COMMAND, "--data.num_workers=1", "--run_dir", str(run)]
    command += ["--trainer.max_steps=100000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    wait_until(lambda: 2 in RunFolder(run).checkpoints() or process.poll() is not None, seconds=120)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.count("SIGINT: saving and stopping") == 1
    assert "stopped by SIGINT" in output
    assert "--resume auto" in output
    assert "Traceback" not in output
    assert max(RunFolder(run).checkpoints()) >= 2
