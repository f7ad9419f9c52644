"""How runs end: nothing that fails in a probe, on the disk or by a signal is lost without a word."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.__main__ import main
from probediff.callbacks import AssignmentAccuracy, FixedNoiseGeneration
from probediff.commands.fit import fit as fit_command
from probediff.commands.probe import probe as probe_command
from probediff.probing.shared_pass import run_pass
from probediff.runs.folder import RunFolder
from probediff.runs.lock import hold, release
from probediff.runs.results import ProbeResult
from tests.commands import forked
from tests.commands.reading import read_errors, read_values
from tests.conftest import TINY_RUN

ROOT = Path(__file__).parents[2]
COMMAND = ["--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no convergence"),
        *(
            pytest.param(error, marks=pytest.mark.slow)
            for error in (torch.linalg.LinAlgError("singular"), torch.OutOfMemoryError("CUDA out of memory"))
        ),
        KeyError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_probe_raises_is_a_record(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any, *_: Any) -> ProbeResult:
        raise error

    monkeypatch.setattr(AssignmentAccuracy, "measure", fail)
    monkeypatch.setattr(FixedNoiseGeneration, "finish", fail)
    with pytest.warns(UserWarning, match="assignment_accuracy has no result at step 2"):
        assert fit_command([*COMMAND, "--run_dir", str(tmp_path / "run")]) == 0
    words = read_errors(tmp_path / "run")
    names = {(step, "assignment_accuracy") for step in (0, 2, 4)} | {(4, "fixed_noise_generation_final")}
    assert words.keys() == names
    assert all(type(error).__name__ in text for text in words.values())
    assert "assignment_accuracy has no result, or only a part, at step 0, 2, 4: " in capsys.readouterr().out
    assert (0, "checkpoint_similarity_final") in read_values(tmp_path / "run")
    assert RunFolder(tmp_path / "run").is_finished()


@pytest.mark.parametrize("step", [0, 2])
def test_a_pass_that_fails_costs_its_event_or_ends_what_has_not_begun(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(model: Any, *others: Any) -> Any:
        if model.step == step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return run_pass(model, *others)

    monkeypatch.setattr("probediff.callbacks.coordinator.run_pass", failing)
    run_dir = tmp_path / "run"
    if step == 0:
        assert fit_command([*COMMAND, "--run_dir", str(run_dir)]) == 1
        assert "--probing.settings.batch_size" in capsys.readouterr().err
        return
    with pytest.warns(UserWarning, match="no probe has a result at step 2: OutOfMemoryError.*`probediff probe"):
        assert fit_command([*COMMAND, "--run_dir", str(run_dir)]) == 0
    assert "pass has no result, or only a part, at step 2: OutOfMemoryError" in capsys.readouterr().out
    folder = RunFolder(run_dir)
    assert folder.is_finished()
    assert read_errors(run_dir).keys() == {(2, "pass")}
    assert folder.sample_steps() == [0, 4]
    assert folder.checkpoint_path(2).exists()
    monkeypatch.undo()
    options = ["--checkpoints=2", "--out", str(tmp_path / "again"), "--progress=false", "--device=cpu"]
    assert probe_command([str(run_dir), *options]) == 0
    assert (2, "assignment_accuracy") in read_values(tmp_path / "again" / "num_steps=0008")


@pytest.mark.parametrize("value", [pytest.param(0.5, marks=pytest.mark.slow), float("nan")])
def test_degenerate_samples_do_not_end_a_run(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the last step as well, where the probes look back."""

    def degenerate(*arguments: Any) -> Any:
        event = run_pass(*arguments)
        event.x_0.fill_(value)
        return event

    monkeypatch.setattr("probediff.callbacks.coordinator.run_pass", degenerate)
    assert fit_command([*COMMAND, "--run_dir", str(tmp_path / "run")]) == 0
    assert RunFolder(tmp_path / "run").is_finished()
    assert {"pixel_correlation", "checkpoint_similarity_final"} <= {probe for _, probe in read_errors(tmp_path / "run")}


@pytest.mark.parametrize(("damage", "step"), [("flipped", 0), ("cut", 2), ("empty", 0), ("text", 2)])
def test_damaged_samples_cost_their_own_comparison_only(
    damage: str, step: int, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = RunFolder(run).sample_path(step)
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes({"flipped": content, "cut": content[:-500], "empty": b"", "text": b"no samples"}[damage])
    whole = read_values(tiny_run)
    assert fit_command([*COMMAND, "--run_dir", str(run), "--resume=auto", "--trainer.max_steps=5"]) == 0
    words = read_errors(run)
    assert set(words) == {(step, "checkpoint_similarity_final"), (5, "fixed_noise_generation_final")}
    assert f"step={step:08d}.safetensors" in words[step, "checkpoint_similarity_final"]
    assert "checkpoint_similarity_final has no result, or only a part, at step" in capsys.readouterr().out
    now = read_values(run)
    other = {0: 2, 2: 0}[step]
    assert now[other, "checkpoint_similarity_final"]["final_step"] == 5
    assert all(now[key] == whole[key] for key in whole if not key[1].endswith(("_final", "run")))


@contextmanager
def disk_that_is_full(monkeypatch: pytest.MonkeyPatch, from_step: int) -> Iterator[None]:
    """Nothing reaches the disk any more from the event of ``from_step`` on."""
    fsync, full = os.fsync, from_step < 0

    def sync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    def filling(model: Any, *others: Any) -> Any:
        nonlocal full
        full = full or model.step >= from_step
        return run_pass(model, *others)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr("probediff.callbacks.coordinator.run_pass", filling)
        yield


def test_a_disk_that_stays_full_is_told_by_status_and_last_line(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with disk_that_is_full(monkeypatch, from_step=2), pytest.warns(UserWarning, match="No space left"):
        assert fit_command([*COMMAND, "--run_dir", str(run)]) == 74
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"LOST, because it could not be written to {run}: ")
    for lost in ("samples of step 2, 4", "checkpoint of step 4", "records of step 2, 4"):
        assert lost in last
    assert {record["step"] for record in RunFolder(run).records()} == {0}
    # Nothing that is there is damaged, and a start on the full disk is refused in words.
    before = read_values(run)
    with disk_that_is_full(monkeypatch, from_step=-1):
        assert fit_command([*COMMAND, "--run_dir", str(run), "--resume=auto"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device); free some, then give the command again" in error
    assert "Traceback" not in error
    assert read_values(run) == before
    # With space again it becomes the run that it would have been.
    assert fit_command([*COMMAND, "--run_dir", str(run), "--resume=auto"]) == 0
    assert read_values(run) == read_values(tiny_run)


def test_probe_on_a_full_disk_says_what_is_lost(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = RunFolder.save_samples

    def full(self: RunFolder, step: int, x_0: torch.Tensor) -> None:
        if step == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, step, x_0)

    monkeypatch.setattr(RunFolder, "save_samples", full)
    arguments = ["probe", str(tiny_run), "--out", str(tmp_path / "out"), "--device=cpu", "--progress=false"]
    with pytest.warns(UserWarning, match="samples could not be written"):
        assert main(arguments) == 74
    assert capsys.readouterr().out.splitlines()[-1].startswith("LOST, because it could not be written: samples of step")


def test_two_probes_of_one_folder(tiny_run: Path, tmp_path: Path) -> None:
    """One works, the other says who does; no record is doubled."""
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    arguments = ["probe", str(run), "--device=cpu", "--progress=false"]
    logs = [tmp_path / f"log{k}" for k in range(2)]
    processes = [forked.start(arguments, log) for log in logs]
    statuses = [forked.wait(process) for process in processes]
    records = RunFolder(run / "probes" / "replay" / "num_steps=0008").records()
    keys = [(record["step"], record["probe"]) for record in records]
    assert len(keys) == len(set(keys)) > 20
    told = [log.read_text() for log, status in zip(logs, statuses, strict=True) if status]
    # The second may come when the first has ended, and then finds everything there.
    assert all("is at work in" in text and "another --out" in text for text in told)
    assert statuses.count(0) >= 1


def test_a_folder_that_another_process_probes(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "num_steps=0008"
    holding = "import sys,time;from pathlib import Path;from probediff.runs.lock import hold;hold(Path(sys.argv[1]))"
    holding += ";print(flush=True);time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holding, str(out)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert main(["probe", str(tiny_run), "--out", str(tmp_path / "out"), "--device=cpu"]) == 1
        assert f"process {process.pid} is at work in {out}" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == ["process.lock"]
    finally:
        process.kill()
        process.wait()
    assert hold(out, wait_sec=5)
    release(out)


def test_another_number_of_processes_is_told(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = RunFolder(run).checkpoint_path(4)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["callbacks"]["Probing"]["num_processes"] == 1
    checkpoint["callbacks"]["Probing"]["num_processes"] = 8
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match=r"goes on with 1 process\(es\), before 8"):
        assert fit_command([*COMMAND, "--run_dir", str(run), "--resume=auto", "--trainer.max_steps=5"]) == 0
