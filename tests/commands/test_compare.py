"""``probediff compare``: its numbers against a literal computation, and what it keeps, refuses and leaves out."""

from __future__ import annotations

import math
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probediff.commands.compare import compare
from probediff.commands.probe import probe
from probediff.ddim import ddim_sample
from probediff.denoisers.filtered import NearestImage
from probediff.denoisers.local import LocalScoreMachine
from probediff.measures import cka, ssim
from probediff.models.exact import ExactModel
from probediff.noise import seeded_noise
from probediff.runs.folder import RunFolder
from tests.commands.compared_runs import QUICK, STEPS, change_records, copy_run, refused, result


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return copy_run(tiny_run, tmp_path / "first")


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each evaluation of two kinds of denoisers."""
    batches: list[int] = []
    for kind in (LocalScoreMachine, NearestImage):
        original = kind._expected_image

        def count(self: Any, query: Any, key: int, original: Any = original) -> Tensor:
            batches.append(len(query.rows))
            image: Tensor = original(self, query, key)
            return image

        monkeypatch.setattr(kind, "_expected_image", count)
    return batches


def literal_r2(x: Tensor, reference: Tensor) -> list[float]:
    """Image by image, with loops over values."""
    found = []
    for image, target in zip(x.flatten(1).tolist(), reference.flatten(1).tolist(), strict=True):
        mean = sum(target) / len(target)
        left = sum((a - b) ** 2 for a, b in zip(image, target, strict=True))
        found.append(1 - left / sum((b - mean) ** 2 for b in target))
    return found


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def check(row: dict[str, Any], x: Tensor, reference: Tensor) -> None:
    """Values and errors of a row of the result."""
    shifted = torch.stack([x[index - 1] for index in range(len(x))])
    clamped = [part.clamp(-1, 1) for part in (x, shifted, reference)]
    expected = {
        "r2": mean_and_error(literal_r2(x, reference)),
        "r2_null": mean_and_error(literal_r2(shifted, reference)),
        "ssim": mean_and_error(ssim(clamped[0], clamped[2]).tolist()),
        "ssim_null": mean_and_error(ssim(clamped[1], clamped[2]).tolist()),
    }
    for name, (value, error) in expected.items():
        assert row["values"][name] == pytest.approx(value, abs=1e-5), name
        assert row["standard_errors"][name] == pytest.approx(error, abs=1e-5), name
    assert row["values"]["cka_debiased"] == pytest.approx(cka(x, reference, debiased=True), abs=1e-5)
    # The jackknife: each image is a group of its own.
    kept = [[k for k in range(len(x)) if k % 20 != group] for group in range(min(20, len(x)))]
    without = [cka(x[rows], reference[rows], debiased=True) for rows in kept]
    spread = sum((value - statistics.fmean(without)) ** 2 for value in without)
    error = math.sqrt((len(without) - 1) / len(without) * spread)
    assert row["standard_errors"]["cka_debiased"] == pytest.approx(error, rel=1e-4)


def test_two_runs_against_a_literal_computation(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copy_run(run, tmp_path / "second", 1, 0.02)
    arguments = [
        str(run),
        str(other),
        *QUICK,
        "--denoisers",
        "h=0.4,local,patch_size=3,images=30",
        "--num_samples",
        "20",
    ]
    assert compare(arguments) == 0
    found = result(run)
    samples = {path.name: {step: RunFolder(path).load_samples(step)[:20] for step in STEPS} for path in (run, other)}
    exact: dict[str, Tensor] = {}
    for name, spec in (("h=0.4", "h=0.4,images=60"), ("local,patch_size=3", "denoiser=local,patch_size=3,images=30")):
        model = ExactModel.parse(f"exact:{run},{spec}").load()
        noise = seeded_noise(420, range(20), (1, 8, 8))
        exact[name] = ddim_sample(model.eps_model, model.schedule, noise, num_steps=8, convention="openai", clip=True)
    assert len(found["rows"]) == 2 * 2 * 3
    for row in found["rows"]:
        assert row["images"] == {"h=0.4": 60, "local,patch_size=3": 30}[row["denoiser"]]
        check(row, exact[row["denoiser"]], samples[row["run"]][row["step"]])
    assert len(found["ceiling"]) == 2 * 3
    for row in found["ceiling"]:
        assert {row["run"], row["other_run"]} == {"first", "second"}
        check(row, samples[row["other_run"]][row["step"]], samples[row["run"]][row["step"]])
    assert [(row["run"], row["step"]) for row in found["own_final"]] == [(r, s) for r in samples for s in (0, 2)]
    for row in found["own_final"]:
        check(row, samples[row["run"]][4], samples[row["run"]][row["step"]])
    means = {(m["predictor"], m.get("denoiser"), m["step"]): m for m in found["means"]}
    assert len(means) == 2 * 3 + 3 + 2
    of_runs = [literal_r2(exact["h=0.4"], samples[name][4]) for name in samples]
    mean = means["denoiser", "h=0.4", 4]
    value, error = mean_and_error([statistics.fmean(pair) for pair in zip(*of_runs, strict=True)])
    assert (mean["values"]["r2"], mean["standard_errors"]["r2"]) == pytest.approx((value, error), abs=1e-5)
    assert mean["std_over_runs"]["r2"] == pytest.approx(statistics.stdev(map(statistics.fmean, of_runs)), abs=1e-5)
    assert (mean["num_runs"], means["another seed", None, 4]["std_over_runs"]) == (2, {})
    assert (found["conventions"]["num_samples"], found["conventions"]["noise_seed"]) == (20, 420)
    assert found["denoisers"][1]["made_of"]["fitted_to"] == 30
    printed = capsys.readouterr().out
    assert "h=0.4, M = 60: 20 images x 8 evaluations = 160, about " in printed
    assert printed.index("Together about ") < printed.index("step 4")
    rows = [line for line in printed.splitlines() if re_starts(line, "h=0.4  ", "local", "another seed", "own final")]
    r2 = {name: means["denoiser", name, 4]["values"]["r2"] for name in exact}
    best = max(r2, key=lambda name: r2[name])
    assert rows[0].startswith(best) and f"{r2[best]:.3f} ± " in rows[0]
    assert [line.split("  ")[0] for line in rows[2:]] == ["another seed (ceiling)", "own final samples"]


def re_starts(line: str, *beginnings: str) -> bool:
    return line.startswith(beginnings) and "M =" not in line


def test_what_is_there_is_not_made_again(run: Path, evaluations: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([str(run), *QUICK, "--denoisers", "nearest"]) == 0
    # Timed with one image and a batch; two batches of 24 noises at 8 steps.
    assert sorted(evaluations) == [1, *[8] * 8, *[16] * 9]
    first = result(run)
    evaluations.clear()
    capsys.readouterr()
    assert compare([str(run), *QUICK, "--denoisers", "nearest"]) == 0
    assert not evaluations and result(run) == first
    printed = capsys.readouterr().out
    assert "nearest, M = 60: there already" in printed and "Together" not in printed
    # Another denoiser is added, and of more images only the others are made.
    assert compare([str(run), *QUICK, "--denoisers", "local"]) == 0
    assert len(evaluations) == 2 + 16
    assert [one["name"] for one in result(run)["denoisers"]] == ["local,images=60", "nearest,images=60"]
    assert [row for row in result(run)["rows"] if row["denoiser"] == "nearest"] == first["rows"]
    evaluations.clear()
    out = run.parent / "out"
    assert compare([str(run), *QUICK, "--denoisers", "nearest", "--num_samples", "16", "--out", str(out)]) == 0
    assert not evaluations


def test_an_interrupted_command_goes_on_where_it_was(
    run: Path, evaluations: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run), *QUICK, "--denoisers", "nearest"]
    original = NearestImage._expected_image

    def interrupted(self: Any, query: Any, key: int) -> Tensor:
        if len(evaluations) == 2 + 8 + 3:
            raise KeyboardInterrupt
        return original(self, query, key)

    with monkeypatch.context() as patch:
        patch.setattr(NearestImage, "_expected_image", interrupted)
        assert compare(arguments) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err
    assert not (run / "probes" / "compare").exists()
    evaluations.clear()
    assert compare(arguments) == 0
    assert sorted(evaluations) == [1, *[8] * 8, 16]


def test_samples_of_a_probe_are_taken(run: Path, evaluations: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cpu", "--progress", "false", *(f"--{name}.enabled=false" for name in ("latent_normality",))]
    assert probe([f"exact:{run},denoiser=nearest,images=60", *options]) == 0
    evaluations.clear()
    assert compare([str(run), *QUICK, "--denoisers", "nearest"]) == 0
    assert not evaluations
    folder = run / "probes" / "exact-nearest,images=60" / "num_steps=0008"
    assert f"nearest, M = 60: taken from {folder}" in capsys.readouterr().out
    x_0 = RunFolder(folder).load_samples(0)
    assert result(run)["rows"][2]["values"]["r2"] == pytest.approx(
        statistics.fmean(literal_r2(x_0, RunFolder(run).load_samples(4))), abs=1e-5
    )
    # With other steps they are others.
    (path,) = (run / "probes" / "exact-nearest,images=60" / "compare_samples").iterdir()
    shutil.rmtree(path)
    change_records(RunFolder(folder), clip=False)
    assert compare([str(run), *QUICK, "--denoisers", "nearest"]) == 0
    assert evaluations


def test_damaged_and_missing_samples_are_left_out_and_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(run)
    folder.sample_path(0).unlink()
    folder.sample_path(2).write_bytes(folder.sample_path(2).read_bytes()[:-9])
    assert compare([str(run), *QUICK, "--denoisers", "h=1"]) == 0
    found, printed = result(run), capsys.readouterr().out
    assert [row["step"] for row in found["rows"]] == [4] and not found["ceiling"] and not found["own_final"]
    assert len(found["left_out"]) == 2
    assert f"step 0 of first is left out: {folder.sample_path(0).resolve()} is not there" in printed
    assert f"step 2 of first is left out: {folder.sample_path(2).resolve()}" in printed
    assert "No ceiling: it needs runs of two seeds" in printed
    folder.save_samples(2, torch.full((24, 1, 8, 8), math.nan))
    folder.save_samples(0, torch.zeros(5, 1, 8, 8))
    assert compare([str(run), *QUICK, "--denoisers", "h=1"]) == 0
    printed = capsys.readouterr().out
    assert "holds samples that are not finite" in printed and "got an array (5, 1, 8, 8)" in printed
    records = folder.records_path.read_text()
    folder.records_path.write_text(re.sub(r'("step": 0,.*"num_steps": )8', r"\g<1>4", records))
    assert compare([str(run), *QUICK, "--denoisers", "h=1"]) == 0
    assert f"{folder.sample_path(0).resolve()} was made with num_steps 4 and not 8" in capsys.readouterr().out
    folder.sample_path(4).unlink()
    error = refused(capsys, run, *QUICK, "--denoisers", "h=1")
    assert "RUN must hold samples that can be read, got none" in error


def test_numbers_that_are_not_defined_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x_0 = RunFolder(run).load_samples(4)
    x_0[3] = -1
    RunFolder(run).save_samples(4, x_0)
    assert compare([str(run), *QUICK, "--denoisers", "h=1"]) == 0
    row = result(run)["rows"][2]
    assert "r2" not in row["values"] and "ssim" in row["values"] and row["error"].startswith("r2: reference must")
    assert capsys.readouterr().out.count("left out: r2: reference must have images whose values differ") == 1


def test_samples_that_are_gone_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([str(run), *QUICK, "--denoisers", "h=1,nearest"]) == 0
    shutil.rmtree(run / "probes" / "exact-nearest,images=60")
    assert compare([str(run), *QUICK, "--denoisers", "h=1"]) == 0
    assert [one["name"] for one in result(run)["denoisers"]] == ["h=1"]
    assert "nearest,images=60 was there and is left out, for its samples are gone" in capsys.readouterr().out
