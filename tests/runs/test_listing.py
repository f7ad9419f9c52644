"""The list of local runs: states, progress, values and lineage."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probediff.commands.runs import runs
from probediff.runs.catalogue import PROBES
from probediff.runs.descriptions import Column, Description
from probediff.runs.folder import LOCK, RunFolder
from probediff.runs.listing import find_runs, read_run
from probediff.runs.lock import hold, holder, is_held, release

NOW = 1_700_000_000.0
HOUR = 3600.0

CONFIG = """# started: 2026-01-01T00:00:00+00:00
seed_everything: 10
trainer:
  max_steps: 1000
"""


def record(step: int, probe: str, **values: float) -> str:
    return json.dumps({"step": step, "probe": probe, "values": values, "conventions": {}}) + "\n"


EVENTS = (
    record(0, "inversion_angles", at_image_mean_deg=70.0)
    + record(0, "timing", event_seconds=1.0)
    + record(500, "training", loss_mean=0.125, steps_per_second=12.5)
    + record(500, "inversion_angles", at_image_mean_deg=30.5)
    + record(500, "timing", event_seconds=1.0)
)
END = record(1000, "run", last_step=1000.0)


def make_run(path: Path, lines: str = EVENTS, age_sec: float = 10 * HOUR, config: str = CONFIG) -> Path:
    """A run folder whose files were written ``age_sec`` before NOW."""
    path.mkdir(parents=True)
    (path / "records.jsonl").write_text(lines)
    (path / "config.yaml").write_text(config)
    for file in path.iterdir():
        written(file, age_sec)
    return path


def written(file: Path, age_sec: float) -> None:
    os.utime(file, (NOW - age_sec, NOW - age_sec))


def test_reading_runs_needs_neither_torch_nor_lightning() -> None:
    code = "import sys, probediff.commands.runs; print(sorted({'torch', 'wandb', 'lightning'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert process.stdout.strip() == "[]", process.stderr


def test_a_real_run_is_finished(tiny_run: Path) -> None:
    run = read_run(tiny_run, time.time())
    assert (run.state, run.step, run.max_steps, run.seed) == ("finished", 4, 4, 0)
    last = {r["probe"]: r["values"] for r in RunFolder(tiny_run).records() if r["values"]}
    assert run.values["inversion_angles"] == last["inversion_angles"]
    assert run.steps_per_second == last["training"]["steps_per_second"]


def test_runs_are_found_below_but_not_inside_probes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "sweep" / "seed0")
    other = make_run(tmp_path / "a" / "b" / "c")
    make_run(run / "probes" / "replay" / "num_steps=0100")
    make_run(tmp_path / "probes" / "model")
    make_run(tmp_path / ".hidden")
    (tmp_path / "link").symlink_to(run)
    assert find_runs(tmp_path) == [other, run]
    assert find_runs(run) == [run]


def test_progress_speed_and_last_values(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", EVENTS + '{"step": 600, "probe": "cut sh'), NOW)
    assert (run.step, run.max_steps, run.seed, run.steps_per_second) == (500, 1000, 10, 12.5)
    assert run.values["inversion_angles"] == {"at_image_mean_deg": 30.5}
    assert run.changed_at == NOW - 10 * HOUR
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "step=00000640.ckpt").touch()
    assert read_run(tmp_path / "run", NOW).step == 640


def test_without_a_lock_file_times_decide(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert read_run(path, NOW).state == "stopped"
    written(path / "records.jsonl", 60)
    assert read_run(path, NOW).state == "training?"
    written(path / "records.jsonl", 2 * HOUR)
    assert read_run(path, NOW).state == "stopped"
    # Checkpoints that come every hour and a half: nothing new for two hours means little.
    (path / "checkpoints").mkdir()
    for number, age_sec in enumerate((3.5 * HOUR, 2 * HOUR)):
        file = path / "checkpoints" / f"step={number:08d}.ckpt"
        file.touch()
        written(file, age_sec)
    assert read_run(path, NOW).state == "training?"
    # W&B's own file grows while the run lives.
    for file in (path / "checkpoints").iterdir():
        file.unlink()
    (path / "wandb" / "offline-run-1").mkdir(parents=True)
    (path / "wandb" / "offline-run-1" / "run-1.wandb").touch()
    written(path / "wandb" / "offline-run-1" / "run-1.wandb", 15)
    assert read_run(path, NOW).state == "training?"


def test_an_error_is_told_until_the_run_is_started_again(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    error = path / "error.txt"
    error.write_text(
        'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: bad\nmore of the message\n'
    )
    written(error, 60)
    assert (read_run(path, NOW).state, read_run(path, NOW).why) == ("failed", "ValueError: bad")
    written(path / "config.yaml", 30)
    assert read_run(path, NOW).state == "training?"
    written(path / "config.yaml", 10 * HOUR)
    (path / "records.jsonl").write_text(EVENTS + END)
    assert (read_run(path, NOW).state, read_run(path, NOW).why) == ("finished", "")


@pytest.mark.parametrize("line", ["{broken}\n", "[1]\n", '{"probe": "x"}\n'])
def test_damage_is_told_and_does_not_hide_the_other_runs(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "bad", line + EVENTS)
    make_run(tmp_path / "good", EVENTS + END)
    assert runs([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert [text.split()[:2] for text in out.splitlines()[2:4]] == [["bad", "unreadable"], ["good", "finished"]]
    assert "\nbad: " in out


def test_the_table_and_its_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = make_run(tmp_path / "seeds" / "trial1", EVENTS + END)
    (child / "lineage.json").write_text(json.dumps({"sweep": "abc", "trial": "1", "continues": ["x", "y"]}))
    (make_run(tmp_path / "new", "") / "error.txt").write_text("ValueError: no data\n")
    assert runs([str(tmp_path)]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "run"
    assert len(rule) == len(header)
    assert rows[0].split()[:4] == ["new", "failed", "-", "10"]
    assert rows[1].split()[:7] == ["seeds/trial1", "finished", "1000/1000", "10", "12.5", "0.125", "30.5"]
    assert "image->noise" not in header
    assert rows[2:] == ["", "new: ValueError: no data", "seeds/trial1: sweep abc, trial 1, continues x and y"]


def test_the_catalogue_of_a_run_may_list_more_and_its_damage_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", EVENTS + record(500, "mine", depth=7.25))
    mine = Description("mine", columns=(Column("depth", listed_as="my depth"),))
    RunFolder(tmp_path / "a").save_catalogue([PROBES["inversion_angles"], mine, PROBES["training"]])
    (make_run(tmp_path / "b", EVENTS) / "catalogue.json").write_text('{"mine": 1}')
    assert runs([str(tmp_path)]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", header)[5:8] == ["loss", "angle at image", "my depth"]
    assert rows[0].split()[5:8] == ["0.125", "30.5", "7.25"]
    assert rows[1].split()[:2] == ["b", "unreadable"] and "catalogue.json is of another version" in rows[-1]


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path / "run", EVENTS + END)
    assert runs([str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["path"] == str(path)
    assert (found["state"], found["step"], found["max_steps"], found["seed"]) == ("finished", 1000, 1000, 10)
    assert found["values"]["training"] == {"loss_mean": 0.125, "steps_per_second": 12.5}


@pytest.mark.parametrize(("name", "message"), [("", "no folder with records.jsonl"), ("missing", "no such folder")])
def test_a_folder_without_runs_is_an_error(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs([str(tmp_path / name)]) == 1
    assert message in capsys.readouterr().err


@contextmanager
def at_work(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a run, as training does."""
    code = (
        "import sys, time; from pathlib import Path; from probediff.runs.lock import hold\n"
        "hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lock_tells_for_certain_also_after_a_kill(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert is_held(path) is None
    with at_work(path) as process:
        assert read_run(path, NOW).state == "training"
        assert holder(path) == {"process": process.pid, "host": socket.gethostname(), "gpu": None}
        assert not hold(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert is_held(path) is False
        # A minute ago something was written, yet no process is left.
        written(path / "records.jsonl", 60)
        assert read_run(path, NOW).state == "stopped"
    assert hold(path)
    assert is_held(path) is True
    release(path)
    assert is_held(path) is False
    assert (path / LOCK).exists()
