"""The proof keeps to its limits, goes on after what fails, and runs as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpu.proof import TIMED_OUT, TRAINING_SHARE, run_stage, stages


def test_a_stage_that_takes_too_long_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    child = "import pathlib, time; time.sleep(4); pathlib.Path('late').touch()"
    code = f"import subprocess, sys; print('here', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    line = run_stage("long", ["-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"], 1.5, tmp_path, dict(os.environ))
    assert line["status"] == TIMED_OUT
    assert (tmp_path / "long.log").read_text() == "here\n"
    time.sleep(4)
    assert not (tmp_path / "late").exists()


def test_the_status_of_a_stage_is_that_of_its_process(tmp_path: Path) -> None:
    line = run_stage("failing", ["-c", "raise SystemExit(3)"], 60, tmp_path, dict(os.environ))
    assert line["status"] == 3
    assert line["seconds"] < 60


@pytest.mark.parametrize("total", [240.0, 270.0, 540.0])
def test_limits_leave_the_training_its_share(total: float, tmp_path: Path) -> None:
    left = total
    for stage in stages(tmp_path, tmp_path, total, "cuda", False):
        limit = stage.limit(left)
        assert limit >= (TRAINING_SHARE * total - 1e-6 if stage.name == "training" else 0.15 * total)
        left -= limit
    assert left == pytest.approx(0)


@pytest.mark.slow
def test_the_whole_proof_in_miniature(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.proof", "--out", str(tmp_path), "--minutes", "9"]
    environment = {name: value for name, value in os.environ.items() if name != "PROBEDIFF_DATA"}
    done = subprocess.run(
        [*command, "--device", "cpu", "--miniature"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    logs = "\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(tmp_path.rglob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    lines = json.loads((tmp_path / "summary.json").read_text())
    assert [(line["stage"], line["status"]) for line in lines] == [
        ("checks", 0),
        ("resume", 0),
        ("steps", 0),
        ("training", 0),
    ]
    assert "patches of two photographs" in (tmp_path / "images.log").read_text()
    assert all(json.loads(line)["check"] for line in (tmp_path / "checks.jsonl").read_text().splitlines())
    variants = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    measured = [variant["variant"] for variant in variants if "ms" in variant]
    assert measured[:2] == ["probediff, eager", "diffusers, eager"]
    parts = [json.loads(line) for line in (tmp_path / "training" / "parts.jsonl").read_text().splitlines()]
    assert [part["status"] for part in parts] == [75, 75]
    assert (tmp_path / "training" / "records.jsonl").stat().st_size > 1000
