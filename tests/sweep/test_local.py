"""The local runner: several at a time, failures, signals, kills and starting again, with trials that train nothing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from probediff.commands.sweep import sweep, visible_gpus
from probediff.runs.folder import LOCK, RunFolder
from probediff.runs.lock import holder
from probediff.sweep.progress import Standing, summary

ROOT = Path(__file__).parents[2]
FAKE = [
    "${env}",
    "python",
    "-m",
    "tests.sweep.fake_trial",
    "${args}",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", os.environ["PATH"])


def sweep_file(folder: Path, **parameters: Any) -> Path:
    path = folder / "fake.yaml"
    entries = {key: value if isinstance(value, dict) else {"value": value} for key, value in parameters.items()}
    path.write_text(yaml.safe_dump({"method": "grid", "command": FAKE, "parameters": entries}))
    return path


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Trials wait after their first step until this file is taken away."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gate").touch()
    return tmp_path / "out" / "gate"


def start(path: Path, *options: str) -> subprocess.Popen[str]:
    code = "import sys; from probediff.commands.sweep import sweep; sys.exit(sweep(sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(path), "--local", "--folder", str(path.parent / "out"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def steps(folder: Path) -> list[tuple[str, int]]:
    return [(record["probe"], record["step"]) for record in RunFolder(folder).records()]


WHOLE = [("training", 1), ("training", 2), ("training", 3), ("run", 3)]


def run_here(path: Path, *options: str) -> int:
    return sweep([str(path), "--local", "--folder", str(path.parent / "out"), *options])


def test_all_trials_run_each_in_its_folder_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, a={"values": [1, 2]}, b={"values": ["x", "y"]})
    assert run_here(path, "--num_parallel", "2") == 0
    names = [f"a={a},b={b}" for a in (1, 2) for b in "xy"]
    for name in names:
        assert steps(tmp_path / "out" / name) == WHOLE
        lineage = RunFolder(tmp_path / "out" / name).lineage()
        assert lineage["id"] == f"fake/{name}"
        assert lineage["values"] == {"a": int(name[2]), "b": name[-1]}
        assert lineage["continues"] == []
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split()[:3] for line in table] == [[name, "finished", "3"] for name in names]
    before = [(tmp_path / "out" / name / "starts").read_text() for name in names]
    assert run_here(path) == 0
    assert [(tmp_path / "out" / name / "starts").read_text() for name in names] == before


def test_a_failing_trial_takes_no_other_with_it_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_file(tmp_path, fail_at={"values": [2, -1, -2]})
    assert run_here(path) == 1
    out = tmp_path / "out"
    assert steps(out / "fail_at=2") == WHOLE[:2]
    assert steps(out / "fail_at=-1") == steps(out / "fail_at=-2") == WHOLE
    printed = capsys.readouterr().out
    assert "fail_at=2: failed: exit status 1: the data are gone" in printed
    assert "The same command goes on" in printed
    assert run_here(path) == 0, "from its checkpoint of step 2, where it does not fail again"
    assert steps(out / "fail_at=2") == WHOLE
    first = RunFolder(out / "fail_at=2").lineage()["continues"]
    assert len(first) == 1
    assert first[0] != RunFolder(out / "fail_at=2").lineage()["trial"]


def test_gpus_are_handed_out_one_to_each_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    path = sweep_file(tmp_path, a={"values": [1, 2, 3, 4]}, seconds=0.2)
    assert run_here(path) == 0
    spans: dict[str, list[tuple[float, float]]] = {}
    for file in (tmp_path / "out").glob("a=*/starts"):
        (gpu, begin), (_, end) = (line.split() for line in file.read_text().splitlines())
        spans.setdefault(gpu, []).append((float(begin), float(end)))
    assert set(spans) == {"3", "GPU-5"}
    for of_one in spans.values():
        ordered = sorted(of_one)
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(ordered))
    both = [max(b, d) < min(e, f) for b, e in spans["3"] for d, f in spans["GPU-5"]]
    assert any(both), "two trials ran at a time"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)], ids=lambda x: str(x)
)
def test_signals_reach_the_trials_and_the_sweep_goes_on(number: int, status: int, gate: Path, tmp_path: Path) -> None:
    path = sweep_file(tmp_path, a={"values": [1, 2, 3]})
    process = start(path, "--num_parallel", "2")
    folders = [next_to(path, f"a={a}") for a in (1, 2, 3)]
    wait_until(lambda: all(folder.joinpath("records.jsonl").exists() for folder in folders[:2]), "two trials")
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status, output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("a=") and ": " not in line] == [
        "stopped",
        "stopped",
        "waiting",
    ]
    assert all(holder(folder) is None for folder in folders)
    gate.unlink()
    assert run_here(path, "--num_parallel", "3") == 0
    for folder in folders:
        assert steps(folder) == WHOLE
    assert [len(RunFolder(folder).lineage()["continues"]) for folder in folders] == [1, 1, 0]


def next_to(path: Path, name: str) -> Path:
    return path.parent / "out" / name


def test_the_second_signal_ends_what_does_not_stop(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, deaf=1, steps=1000, seconds=0.1)
    process = start(path)
    folder = next_to(path, "deaf=1,seconds=0.1,steps=1000")
    wait_until((folder / "records.jsonl").exists, "a step")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0].splitlines()[-2].split()[1] == "stopped"
    assert process.returncode == 75
    assert holder(folder) is None


def test_a_trial_that_outlives_a_killed_sweep_is_waited_for(gate: Path, tmp_path: Path) -> None:
    path = sweep_file(tmp_path, a={"values": [1, 2]})
    process = start(path)
    folder = next_to(path, "a=1")
    wait_until((folder / "records.jsonl").exists, "a step")
    process.kill()
    process.communicate()
    again = start(path)
    assert again.stdout is not None
    assert "a=1: still running in process" in again.stdout.readline()
    gate.unlink()
    output = again.communicate(timeout=60)[0]
    assert again.returncode == 0, output
    assert [steps(next_to(path, name)) for name in ("a=1", "a=2")] == [WHOLE, WHOLE]
    assert len((folder / "starts").read_text().splitlines()) == 2, "one start, one end"


def test_a_signal_reaches_a_trial_that_outlived_a_killed_sweep(gate: Path, tmp_path: Path) -> None:
    path = sweep_file(tmp_path, a=1)
    process = start(path)
    wait_until((next_to(path, "a=1") / "records.jsonl").exists, "a step")
    process.kill()
    process.communicate()
    again = start(path)
    assert again.stdout is not None
    assert "still running" in again.stdout.readline()
    again.send_signal(signal.SIGTERM)
    assert "stopped" in again.communicate(timeout=60)[0]
    assert again.returncode == 75
    assert holder(next_to(path, "a=1")) is None


def test_a_trial_on_another_machine_is_not_waited_for_after_a_signal(gate: Path, tmp_path: Path) -> None:
    path = sweep_file(tmp_path, a=1)
    elsewhere = next_to(path, "a=1")
    elsewhere.mkdir()
    with (elsewhere / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"process": os.getpid(), "host": "elsewhere", "gpu": None}))
        file.flush()
        process = start(path)
        assert process.stdout is not None
        assert "still running" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_two_commands_do_not_run_one_plan(gate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, a=1)
    process = start(path)
    wait_until(lambda: holder(tmp_path / "out") is not None, "the first command")
    assert run_here(path) == 1
    assert "is being run by {'process': " in capsys.readouterr().err
    gate.unlink()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_changed_file_needs_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(sweep_file(tmp_path, a=1)) == 0
    assert run_here(sweep_file(tmp_path, a=2)) == 1
    assert "was made from another version of the sweep file" in capsys.readouterr().err


def test_a_finished_run_of_another_trial_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, a={"values": [1, 2]})
    assert run_here(path) == 0
    shutil.rmtree(next_to(path, "a=2"))
    shutil.copytree(next_to(path, "a=1"), next_to(path, "a=2"))
    assert run_here(path) == 1
    assert "holds a run that is not this trial's; move it away" in capsys.readouterr().out


def test_a_value_that_is_listed_twice_is_tried_twice(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, a={"values": [1, 1, 1]})
    assert run_here(path) == 0
    assert [steps(next_to(path, name)) for name in ("a=1", "a=1-2", "a=1-3")] == [WHOLE] * 3


@pytest.mark.parametrize(
    ("gpus", "num", "message"), [("0,1", "3", "1..2, one GPU for each trial"), ("", "0", "at least 1, got 0")]
)
def test_num_parallel_out_of_range(
    gpus: str,
    num: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert run_here(sweep_file(tmp_path, a=1), "--num_parallel", num) == 1
    assert f"--num_parallel must be {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_visible_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for given, expected in (("", []), ("-1", []), ("0, 2", ["0", "2"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Card (UUID: GPU-1)'\necho 'GPU 1: Some Card (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


def test_how_far_a_trial_is(tmp_path: Path) -> None:
    standing = Standing("a=1", tmp_path)
    assert (standing.step(), standing.share()) == (0, 0.0)
    (tmp_path / "config.yaml").write_text("trainer: {max_steps: 40}\n")
    lines = [json.dumps({"step": step, "probe": "p" * 100_000}) for step in (5, 10)]
    (tmp_path / "records.jsonl").write_text("\n".join([*lines, '{"step": 10, "probe": "q"}', '{"step": 11']))
    assert (standing.step(), standing.share()) == (10, 0.25)
    standing.state = "finished"
    assert standing.share() == 1.0
    assert summary([standing]).splitlines()[1].split() == ["a=1", "finished", "10", str(tmp_path)]
