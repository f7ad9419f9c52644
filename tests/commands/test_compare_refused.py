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
from tests.commands.compared_runs import QUICK, change_records, copy_run
from tests.commands.conftest import failing, record
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
    error = failing(compare, [run, other, *QUICK], capsys)
    assert f"got {other.resolve()} with {message}; compare it by itself" in error and error.count("\n") == 1
    assert not (run / "probes").exists()


def test_runs_of_other_data_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_run(run, tmp_path / "second", 1)
    known = json.loads((other / "data.json").read_text())
    (other / "data.json").write_text(json.dumps(known | {"sha256": "0"}))
    assert f"data_sha256 0 and not {known['sha256']}" in failing(compare, [run, other, *QUICK], capsys)
    # Without a fingerprint the configurations say it.
    (other / "data.json").unlink()
    data = yaml.safe_load((other / "config.yaml").read_text())["data"]
    change_config(other, data=data | {"init_args": {"batch_size": 7}})
    assert compare([str(run), str(other), *QUICK, "--denoisers", "h=1", "--out", str(tmp_path / "out")]) == 0
    change_config(other, data={"class_path": "probediff.data.Patches"})
    assert "probediff.data.Patches" in failing(compare, [run, other, *QUICK], capsys)


def test_what_cannot_be_compared_is_refused_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "got no config.yaml in it" in failing(compare, [tmp_path / "nowhere"], capsys)
    assert "--num_samples must be at least 4, got 3" in failing(compare, [run, "--num_samples", "3"], capsys)
    assert "--images must be at least 2, got 1" in failing(compare, [run, "--images", "1"], capsys)
    assert "got 'closest'" in failing(compare, [run, "--denoisers", "closest"], capsys)
    with monkeypatch.context() as patch:
        patch.setattr("probediff.files.capacity.memory_bytes", lambda: 2**18)
        patch.setattr(FilteredPosteriorMean, "predict", pytest.fail)
        error = failing(compare, [run, "--device", "cpu", "--denoisers", "nearest,images=20,local"], capsys)
    assert "images must fit into the" in error and "got 1797" in error and "with ,images=M" in error
    assert not (run / "probes").exists()
    shutil.rmtree(run / "samples")
    assert "got " + str(run.resolve()) + " without any" in failing(compare, [run, *QUICK], capsys)


def test_results_of_other_settings_or_runs_are_not_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_run(run, tmp_path / "second", 1, 0.02)
    arguments = [*QUICK, "--denoisers", "h=1", "--out", str(tmp_path / "out")]
    path = tmp_path / "out" / "compare.json"
    assert compare([str(run), *arguments]) == 0
    assert "num_samples is 24 there and 9 now" in failing(compare, [run, *arguments, "--num_samples", "9"], capsys)
    # More runs are added, and one that was moved is the same.
    moved = run.rename(tmp_path / "moved")
    assert compare([str(moved), str(other), *arguments]) == 0
    assert [row["run"] for row in record(path)["rows"][:2]] == ["moved", "second"]
    before = path.read_bytes()
    error = failing(compare, [moved, *arguments], capsys)
    assert f"{other.resolve()} is compared there and not now; give another --out" in error
    assert path.read_bytes() == before
    path.write_text("{}")
    assert "got a damaged file" in failing(compare, [moved, *arguments], capsys)
