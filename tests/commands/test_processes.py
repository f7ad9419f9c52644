"""Any number of processes: the same images, noise and numbers as one; several nodes train, are killed and go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probediff.runs.folder import RunFolder
from tests.commands import forked
from tests.conftest import close_to, finite

ROOT = Path(__file__).parents[2]
TINY = [
    *("fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.accelerator=cpu", "--wandb.mode=disabled"),
    *("--network.channels=8", "--model.num_train_timesteps=40", "--probing.settings.num_steps=4"),
    *("--probing.schedule.steps=[]", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--probing.progress=false", "--resume=auto"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def values(run_dir: Path) -> dict[tuple[str, int], dict[str, float]]:
    found = {}
    for record in RunFolder(run_dir).records():
        if record["probe"] not in ("timing", "pass"):
            record["values"].pop("steps_per_second", None)
            found[record["probe"], record["step"]] = record["values"]
    return found


@pytest.mark.parametrize(("num_samples", "steps", "every"), [(17, 20, 4), (64, 4, 4)])
def test_two_processes_give_the_losses_and_records_of_one(
    num_samples: int, steps: int, every: int, tmp_path: Path
) -> None:
    results = []
    for devices in (1, 2):
        run_dir = tmp_path / str(devices)
        options = [f"--trainer.devices={devices}", f"--trainer.max_steps={steps}", "--run_dir", str(run_dir)]
        options += [f"--probing.settings.num_samples={num_samples}", f"--probing.schedule.every_n_steps={every}"]
        if devices > 1:
            options.append("--trainer.strategy=ddp")
        log = run_dir.with_suffix(".log")
        assert forked.run_together([*TINY, *options], log, devices) == [0] * devices, log.read_text()
        results.append(values(run_dir))
    one, two = results
    assert one.keys() == two.keys()
    assert sum(probe == "training" for probe, _ in one) == steps // every
    for key, expected in one.items():
        assert finite(two[key]) == close_to(expected), key


TWELVE_STEPS = [
    *("--trainer.strategy=ddp", "--trainer.max_steps=12"),
    *("--probing.settings.num_samples=17", "--probing.schedule.every_n_steps=2"),
]


def start_nodes(run_dir: Path) -> list[subprocess.Popen[str]]:
    options = ["--trainer.devices=1", "--trainer.num_nodes=2", *TWELVE_STEPS, "--run_dir", str(run_dir)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=0"]
    launch += ["--master_addr=127.0.0.1", f"--master_port={forked.free_port()}"]
    commands = [[*launch, f"--node_rank={rank}", "-m", "probediff", *TINY, *options] for rank in range(2)]
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        for command in commands
    ]


def kill_everything_about(run_dir: Path) -> None:
    """SIGKILL launchers and workers alike; torchrun starts workers in sessions of their own."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(run_dir).encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)


def test_two_nodes_train_are_killed_and_go_on(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    nodes = start_nodes(killed)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(RunFolder(killed).records()) < 15:
        assert all(node.poll() is None for node in nodes), [node.communicate()[0] for node in nodes]
        time.sleep(0.05)
    kill_everything_about(killed)
    for node in nodes:
        node.communicate()
    assert not RunFolder(killed).is_finished()
    nodes = start_nodes(killed)
    outputs = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert RunFolder(killed).is_finished()
    log = tmp_path / "whole.log"
    statuses = forked.run_together([*TINY, "--trainer.devices=2", *TWELVE_STEPS, "--run_dir", str(whole)], log, 2)
    assert statuses == [0, 0], log.read_text()
    assert values(killed) == values(whole)


def test_work_of_the_first_process_outlasts_the_timeout(tmp_path: Path) -> None:
    """Two gloo processes with a timeout of 15 s; the first one works for 20 s."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import time
from datetime import timedelta
import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from probediff.callbacks.waiting import on_first_process
from probediff.data import Digits
from tests.conftest import tiny_module

class Slow(L.Callback):
    def on_train_start(self, trainer, module):
        on_first_process(trainer, lambda: time.sleep(20), heartbeat_sec=1)

trainer = L.Trainer(accelerator="cpu", devices=2, strategy=DDPStrategy(timeout=timedelta(seconds=15)), max_steps=2,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False,
    enable_model_summary=False, callbacks=[Slow()])
trainer.fit(tiny_module(), datamodule=Digits(batch_size=16))
if trainer.is_global_zero:
    print("steps", trainer.global_step)
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=ENVIRONMENT, timeout=240, cwd=tmp_path
    )
    assert "steps 2" in done.stdout, done.stdout + done.stderr
