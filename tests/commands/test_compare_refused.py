"""What ``probediff compare`` refuses before any work, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from probediff.commands.compare import compare
from probediff.denoisers.filtered import FilteredPosteriorMean
from probediff.runs.folder import RunFolder
from tests.commands.compared_runs import QUICK, change_records, copy_run, refused
from tests.commands.conftest import record
from tests.models.tiny_run import change_config


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return copy_run(tiny_run, tmp_path / "first")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_seed": 421}, "noise_seed 421 and not 420"),
        ({"num_steps": 4}, "num_steps 4 and not 8"),
        ({"clip": False}, "clip False and not True"),
        ({"convention": "diffusers"}, "convention diffusers and not openai"),
        ({"schedule": "linear"}, "schedule linear and not cosine"),
    ],
)
def test_runs_of_other_samples_are_refused(
    run: Path, tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_run(run, tmp_path / "second", 1)
    change_records(RunFolder(other), **change)
    error = refused(capsys, run, other, *QUICK)
    assert f"got {other.resolve()} with {message}; compare it by itself" in error and error.count("\n") == 1
    assert not (run / "probes").exists()


def test_runs_of_other_data_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_run(run, tmp_path / "second", 1)
    known = json.loads((other / "data.json").read_text())
    (other / "data.json").write_text(json.dumps(known | {"sha256": "0"}))
    assert f"data_sha256 0 and not {known['sha256']}" in refused(capsys, run, other, *QUICK)
    # Without a fingerprint the configurations say it.
    (other / "data.json").unlink()
    data = yaml.safe_load((other / "config.yaml").read_text())["data"]
    change_config(other, data=data | {"init_args": {"batch_size": 7}})
    assert compare([str(run), str(other), *QUICK, "--denoisers", "h=1", "--out", str(tmp_path / "out")]) == 0
    change_config(other, data={"class_path": "probediff.data.Patches"})
    assert "probediff.data.Patches" in refused(capsys, run, other, *QUICK)


def test_what_cannot_be_compared_is_refused_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "got no config.yaml in it" in refused(capsys, tmp_path / "nowhere")
    assert "--num_samples must be at least 4, got 3" in refused(capsys, run, "--num_samples", "3")
    assert "--images must be at least 2, got 1" in refused(capsys, run, "--images", "1")
    assert "got 'closest'" in refused(capsys, run, "--denoisers", "closest")
    with monkeypatch.context() as patch:
        patch.setattr("probediff.files.capacity.memory_bytes", lambda: 2**18)
        patch.setattr(FilteredPosteriorMean, "predict", pytest.fail)
        error = refused(capsys, run, "--device", "cpu", "--denoisers", "nearest,images=20,local")
    assert "images must fit into the" in error and "got 1797" in error and "with ,images=M" in error
    assert not (run / "probes").exists()
    shutil.rmtree(run / "samples")
    assert "got " + str(run.resolve()) + " without any" in refused(capsys, run, *QUICK)


def test_results_of_other_settings_or_runs_are_not_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_run(run, tmp_path / "second", 1, 0.02)
    arguments = [*QUICK, "--denoisers", "h=1", "--out", str(tmp_path / "out")]
    path = tmp_path / "out" / "compare.json"
    assert compare([str(run), *arguments]) == 0
    assert "num_samples is 24 there and 9 now" in refused(capsys, run, *arguments, "--num_samples", "9")
    # More runs are added, and one that was moved is the same.
    moved = run.rename(tmp_path / "moved")
    assert compare([str(moved), str(other), *arguments]) == 0
    assert [row["run"] for row in record(path)["rows"][:2]] == ["moved", "second"]
    before = path.read_bytes()
    error = refused(capsys, moved, *arguments)
    assert f"{other.resolve()} is compared there and not now; give another --out" in error
    assert path.read_bytes() == before
    path.write_text("{}")
    assert "got a damaged file" in refused(capsys, moved, *arguments)
