"""Any number of processes: the same images, noise and numbers as one; several nodes train, are killed and go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from probediff.__main__ import main
from probediff.commands.probe import probe
from probediff.data import Digits
from probediff.models.base import ProbeModel
from probediff.noise import seeded_noise
from probediff.probing.processes import on_first_process
from probediff.probing.shared_pass import ProbePass, run_pass
from probediff.runs.folder import RunFolder
from tests.commands import forked
from tests.commands.reading import read_errors
from tests.conftest import close_to, finite, tiny_module

ROOT = Path(__file__).parents[2]
TINY = [
    *("fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.accelerator=cpu", "--wandb.mode=disabled"),
    *("--network.channels=8", "--model.num_train_timesteps=40", "--probing.settings.num_steps=4"),
    *("--probing.schedule.steps=[]", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--probing.progress=false", "--resume=auto"),
]
TWO_NODES = [
    *("--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp", "--trainer.max_steps=12"),
    *("--probing.settings.num_samples=17", "--probing.schedule.every_n_steps=2"),
]


def values(run_dir: Path) -> dict[tuple[str, int], dict[str, float]]:
    """And their standard errors."""
    found = {}
    for record in RunFolder(run_dir).records():
        if record["probe"] not in ("timing", "pass"):
            record["values"].pop("steps_per_second", None)
            errors = {f"error of {name}": error for name, error in record["standard_errors"].items()}
            found[record["probe"], record["step"]] = record["values"] | errors
    return found


def run_together(log: Path, *arguments: str, count: int = 1, num_nodes: int = 1) -> None:
    processes = forked.start_together(arguments, log, count, num_nodes)
    assert [forked.wait(process) for process in processes] == [0] * count * num_nodes, log.read_text()


@pytest.mark.parametrize(
    ("num_samples", "steps", "every"), [(17, 20, 4), pytest.param(64, 4, 4, marks=pytest.mark.slow)]
)
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
        run_together(run_dir.with_suffix(".log"), *TINY, *options, count=devices)
        results.append(values(run_dir))
    one, two = results
    assert one.keys() == two.keys()
    assert sum(probe == "training" for probe, _ in one) == steps // every
    for key, expected in one.items():
        assert finite(two[key]) == close_to(expected), key


def test_two_processes_share_the_work_of_probing(tiny_run: Path, tmp_path: Path) -> None:
    options = ["--checkpoints", "last", "--device", "cpu", "--progress", "false"]
    assert probe([str(tiny_run), "--out", str(tmp_path / "one"), *options]) == 0
    run_together(tmp_path / "log", "probe", str(tiny_run), "--out", str(tmp_path / "two"), *options, count=2)
    theirs, ours = (values(tmp_path / name / "num_steps=0008") for name in ("one", "two"))
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        assert finite(ours[key]) == close_to(expected), key


def train_and_fail_in_a_pass(arguments: Sequence[str]) -> int:
    """``fit`` whose second process fails in the pass at step 1."""
    is_due = False

    def noticing_step(model: ProbeModel, *others: Any) -> ProbePass:
        nonlocal is_due
        is_due = model.step == 1 and os.environ["RANK"] == "1"
        return run_pass(model, *others)

    def failing_noise(*others: Any) -> Tensor:
        if is_due:
            raise RuntimeError("no memory left")
        return seeded_noise(*others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probediff.callbacks.coordinator.run_pass", noticing_step)
        patch.setattr("probediff.probing.shared_pass.seeded_noise", failing_noise)
        return main(arguments)


def test_a_pass_that_fails_on_one_process_costs_its_event(tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=2", "--run_dir", str(run_dir)]
    options += ["--probing.settings.num_samples=17", "--probing.schedule.every_n_steps=1"]
    processes = forked.start_together([*TINY, *options], log, 2, command=train_and_fail_in_a_pass)
    assert [forked.wait(process) for process in processes] == [0, 0], log.read_text()
    assert read_errors(run_dir) == {(1, "pass"): "on process 1: RuntimeError: no memory left"}
    assert RunFolder(run_dir).sample_steps() == [0, 2]
    assert RunFolder(run_dir).is_finished()


def wait_for_events(run_dir: Path, are_alive: Callable[[], bool], log: Path) -> None:
    """Wait until some events are recorded and the training is not yet over."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(RunFolder(run_dir).records()) < 15:
        assert are_alive(), log.read_text()
        time.sleep(0.02)


def test_two_nodes_train_are_killed_and_go_on(tmp_path: Path) -> None:
    killed, whole, log = tmp_path / "killed", tmp_path / "whole", tmp_path / "log"
    nodes = forked.start_together([*TINY, *TWO_NODES, "--run_dir", str(killed)], log, count=1, num_nodes=2)
    wait_for_events(killed, lambda: all(node.is_alive() for node in nodes), log)
    for node in nodes:
        node.kill()
        node.join()
    assert not RunFolder(killed).is_finished()
    for run_dir in (killed, whole):
        run_together(log, *TINY, *TWO_NODES, "--run_dir", str(run_dir), num_nodes=2)
        assert RunFolder(run_dir).is_finished()
    assert values(killed) == values(whole)


def start_nodes(run_dir: Path, log: Path) -> list[subprocess.Popen[bytes]]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=0"]
    launch += ["--master_addr=127.0.0.1", f"--master_port={forked.free_port()}"]
    training = ["-m", "probediff", *TINY, *TWO_NODES, "--run_dir", str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("a") as output:
        return [
            subprocess.Popen(
                [*launch, f"--node_rank={rank}", *training],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
            for rank in range(2)
        ]


def kill_everything_about(run_dir: Path) -> None:
    """SIGKILL launchers and workers alike; torchrun starts workers in sessions of their own."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(run_dir).encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)


# The same with torchrun's own processes, which import everything again and again.
@pytest.mark.slow
def test_two_nodes_that_torchrun_starts_are_killed_and_go_on(tmp_path: Path) -> None:
    killed, whole, log = tmp_path / "killed", tmp_path / "whole", tmp_path / "log"
    nodes = start_nodes(killed, log)
    wait_for_events(killed, lambda: all(node.poll() is None for node in nodes), log)
    kill_everything_about(killed)
    for node in nodes:
        node.wait()
    assert not RunFolder(killed).is_finished()
    nodes = start_nodes(killed, log)
    assert [node.wait(timeout=240) for node in nodes] == [0, 0], log.read_text()
    run_together(log, *TINY, *TWO_NODES, "--run_dir", str(whole), num_nodes=2)
    assert values(killed) == values(whole)


class Slow(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        on_first_process(lambda: time.sleep(20), torch.device("cpu"), heartbeat_sec=1)


def train_slowly(_: Sequence[str]) -> int:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(timeout=timedelta(seconds=15)),
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        enable_model_summary=False,
        callbacks=[Slow()],
    )
    trainer.fit(tiny_module(), datamodule=Digits(batch_size=16))
    return 0 if trainer.global_step == 2 else 1


@pytest.mark.slow
def test_work_of_the_first_process_outlasts_the_timeout(tmp_path: Path) -> None:
    """Two gloo processes with a timeout of 15 s; the first one works for 20 s."""
    processes = forked.start_together([], tmp_path / "log", count=2, command=train_slowly)
    assert [forked.wait(process) for process in processes] == [0, 0], (tmp_path / "log").read_text()
