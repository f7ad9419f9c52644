"""A run that was killed goes on as if nothing had happened: bitwise."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.commands.fit import fit as fit_command
from probediff.runs.folder import RunFolder
from tests.commands import forked

ROOT = Path(__file__).parents[2]
LAST = 12
ACCELERATOR = os.environ.get("PROBEDIFF_TEST_ACCELERATOR", "cpu")
COMMAND = [
    *("--config", str(ROOT / "configs" / "digits.yaml"), f"--trainer.max_steps={LAST}"),
    *(f"--trainer.accelerator={ACCELERATOR}", *(["--trainer.deterministic=warn"] if ACCELERATOR != "cpu" else [])),
    *("--network.channels=8", "--network.dropout=0.1", "--model.num_train_timesteps=40", "--model.random_flip=true"),
    *("--wandb.mode=disabled", "--probing.settings.num_samples=17", "--probing.settings.num_steps=4"),
    *("--probing.schedule.steps=[3,5,9]", "--probing.schedule.every_n_steps=null", "--data.batch_size=300"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--probing.progress=false"),
]
#: What may differ between two runs: clocks.
CLOCKS = ("timing", "pass")


def start(run_dir: Path) -> ForkServerProcess:
    return forked.start(["fit", *COMMAND, "--run_dir", str(run_dir), "--resume=auto"], run_dir.with_suffix(".log"))


def finish(run_dir: Path) -> None:
    assert forked.wait(start(run_dir)) == 0, run_dir.with_suffix(".log").read_text()


def comparable(folder: RunFolder) -> list[dict[str, Any]]:
    records = [dict(record) for record in folder.records() if record["probe"] not in CLOCKS]
    for record in records:
        record.pop("seconds", None)
        record["values"].pop("steps_per_second", None)
    return records


def assert_same_tensors(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same_tensors(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_tensors(a, b, f"{where}[{k}]")
    else:
        assert ours == theirs, where


def assert_same_run(run_dir: Path, reference: Path) -> None:
    ours, theirs = RunFolder(run_dir), RunFolder(reference)
    assert comparable(ours) == comparable(theirs)
    assert len({(r["probe"], r["step"]) for r in ours.records()}) == len(ours.records())
    checkpoints = [
        torch.load(folder.checkpoint_path(LAST), weights_only=True, map_location="cpu") for folder in (ours, theirs)
    ]
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert_same_tensors(checkpoints[0][part], checkpoints[1][part], part)
    for step in theirs.sample_steps():
        assert torch.equal(ours.load_samples(step), theirs.load_samples(step))


def wait_for_a_sign_of_work(process: ForkServerProcess, run_dir: Path) -> None:
    while process.is_alive() and not (run_dir / "records.jsonl").exists():
        time.sleep(0.01)


def damage_newest_checkpoint(run_dir: Path, rng: random.Random) -> None:
    """As a failing disk would: a bit, a block, or the rest of the file."""
    paths = list(RunFolder(run_dir).checkpoints().values())
    if not paths:
        return
    content = bytearray(paths[-1].read_bytes())
    place = rng.randrange(len(content))
    kind = rng.choice(["bit", "block", "rest"])
    if kind == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "block":
        content[place : place + 4096] = bytes(len(content[place : place + 4096]))
    else:
        del content[place:]
    paths[-1].write_bytes(content)


def kill_at_random_moments(run_dir: Path, num_kills: int, seed: int, seconds: float) -> int:
    """Start, kill, damage, start again ..., then let it end; returns how many of the kills hit a living process."""
    rng = random.Random(seed)
    hits = 0
    for _ in range(num_kills):
        process = start(run_dir)
        wait_for_a_sign_of_work(process, run_dir)
        time.sleep(rng.uniform(0, seconds))
        hits += process.is_alive()
        process.kill()
        process.join()
        if rng.random() < 0.4:
            damage_newest_checkpoint(run_dir, rng)
    finish(run_dir)
    return hits


@pytest.fixture(scope="module")
def run_and_seconds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    process = start(run_dir)
    wait_for_a_sign_of_work(process, run_dir)
    begin = time.monotonic()
    assert forked.wait(process) == 0, run_dir.with_suffix(".log").read_text()
    return run_dir, time.monotonic() - begin


@pytest.fixture
def reference(run_and_seconds: tuple[Path, float]) -> Path:
    """The run that nothing interrupted."""
    return run_and_seconds[0]


@pytest.fixture
def seconds(run_and_seconds: tuple[Path, float]) -> float:
    """How long a run works on this machine, now."""
    return run_and_seconds[1]


def test_a_run_killed_at_5_random_moments_is_the_uninterrupted_run(
    reference: Path, seconds: float, tmp_path: Path
) -> None:
    hits, seed = 0, 0
    while hits < 5:
        hits += kill_at_random_moments(tmp_path / str(seed), num_kills=5, seed=seed, seconds=0.4 * seconds)
        assert_same_run(tmp_path / str(seed), reference)
        seed += 1


@pytest.mark.slow
def test_a_run_killed_at_100_random_moments_is_the_uninterrupted_run(
    reference: Path, seconds: float, tmp_path: Path
) -> None:
    hits, seed = 0, 1000
    while hits < 100:
        hits += kill_at_random_moments(tmp_path / str(seed), num_kills=5, seed=seed, seconds=0.6 * seconds)
        assert_same_run(tmp_path / str(seed), reference)
        seed += 1


@pytest.mark.parametrize(
    ("torn", "step"),
    [
        *(("event", 3), ("event", 12), ("line", 5)),
        *(pytest.param("event", step, marks=pytest.mark.slow) for step in (0, 5, 9)),
        *(pytest.param("line", step, marks=pytest.mark.slow) for step in (0, 12)),
    ],
)
def test_every_place_to_stop(step: int, torn: str, reference: Path, tmp_path: Path) -> None:
    """As after a kill that came after the checkpoint of ``step``, during its event or during the write of it."""
    run_dir = tmp_path / "run"
    folder = RunFolder(run_dir).create()
    records = RunFolder(reference).records_path.read_bytes()
    lines = records.splitlines(keepends=True)
    kept = [line for line in lines if f'"step": {step},'.encode() not in line and b"_final" not in line]
    kept = [line for line in kept if int(line.split(b'"step": ')[1].split(b",")[0]) < step]
    folder.records_path.write_bytes(b"".join(kept) + (lines[-1][:40] if torn == "line" else b""))
    for earlier in (0, 3, 5, 9, 12):
        if earlier <= step:
            folder.checkpoint_path(earlier).write_bytes(RunFolder(reference).checkpoint_path(earlier).read_bytes())
        if earlier < step:
            folder.sample_path(earlier).write_bytes(RunFolder(reference).sample_path(earlier).read_bytes())
    assert fit_command([*COMMAND, "--run_dir", str(run_dir), "--resume=auto"]) == 0
    assert_same_run(run_dir, reference)


def test_a_finished_run_stays_as_it_is(reference: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    finish(run_dir)
    before = comparable(RunFolder(run_dir))
    finish(run_dir)
    assert comparable(RunFolder(run_dir)) == before
    assert_same_run(run_dir, reference)


#: Ctrl-C has a test of its own.
SLOWLY = [
    pytest.param(number, status, marks=pytest.mark.slow)
    for number, status in ((signal.SIGUSR1, 75), (signal.SIGINT, 130))
]


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGTERM, 75), *SLOWLY])
def test_signals_save_and_stop(signal_number: int, status: int, reference: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir)
    while process.is_alive() and len(RunFolder(run_dir).records()) == 0:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal_number)
    code, output = forked.wait(process), run_dir.with_suffix(".log").read_text()
    assert code == status, output
    assert "Traceback" not in output
    assert f"stopped by {signal.Signals(signal_number).name}" in output
    assert "--resume auto" in output
    assert list((run_dir / "checkpoints").glob("step=*.ckpt"))
    finish(run_dir)
    assert_same_run(run_dir, reference)


def test_a_folder_that_holds_a_run_is_not_overwritten(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = RunFolder(reference).records_path.read_bytes()
    assert fit_command([*COMMAND, "--run_dir", str(reference)]) == 1
    assert "already holds a run; go on with it by --resume auto" in capsys.readouterr().err
    assert RunFolder(reference).records_path.read_bytes() == before


def test_resuming_from_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_command([*COMMAND, "--run_dir", str(tmp_path / "run"), "--resume", str(tmp_path / "no.ckpt")]) == 1
    assert "no.ckpt cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
