"""Runs of odd shape, and folders that hold more than runs: a report works and says what it leaves out."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from probediff.commands.report import report
from probediff.commands.runs import runs
from probediff.report import watch as watching
from probediff.report.groups import Comparison, group_runs
from probediff.report.parts import Section
from probediff.report.sections import SECTIONS
from probediff.report.sources import read_runs
from probediff.runs.listing import find_runs
from tests.report.synthetic import conventions, write_run

PROBES = ("training", "inversion_angles", "assignment_accuracy", "pixel_correlation")
NAN = math.nan


def record(step: int, probe: str, values: dict[str, Any], **how: Any) -> dict[str, Any]:
    return {"step": step, "probe": probe, "values": values, "conventions": conventions(**how)}


def angles(noise: float, image: float, latent: float) -> dict[str, float]:
    return {f"at_{v}_most_probable_deg": a for v, a in (("noise", noise), ("image", image), ("latent", latent))}


def everywhere(steps: tuple[int, ...], value: Any, **how: Any) -> list[dict[str, Any]]:
    keys = ("loss_mean", "at_image_mean_deg", "latent", "image_to_noise", "null")
    return [record(step, probe, dict.fromkeys(keys, value), **how) for step in steps for probe in PROBES]


RECORDS: dict[str, list[dict[str, Any]]] = {
    "one step": [*everywhere((5,), 0.5), record(5, "inversion_angles", angles(60, 60, 60))],
    "step 0 alone": everywhere((0,), 0.5),
    "no values": everywhere((0, 1), None),
    "unsorted and twice": everywhere((10, 0, 5, 5, 10), 0.5),
    "too large to draw": everywhere((0, 1), 1e308) + everywhere((2,), -1e308),
    "too small": everywhere((0, 1, 2), 5e-324),
    "no triangle": [record(step, "inversion_angles", angles(10, 10, 10)) for step in (0, 1)],
    "late": everywhere((0, 10**14), 0.5),
    "names alike": [record(0, name, {"a": 1.0}) for name in ("a b", "a_b", "x" * 200)],
    "flat triangle": [record(step, "inversion_angles", angles(0, 180, 0)) for step in (0, 1)],
}


def sections(folder: Path) -> list[Section]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison = group_runs(read_runs([folder]))
        return [section(comparison) for section in SECTIONS]


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_any_shape_make_sections(name: str, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in RECORDS[name]))
    made = sections(tmp_path)
    for figure in (figure for section in made for figure in section.figures):
        figure.drawing.set_dpi(20)
        figure.drawing.canvas.draw() if hasattr(figure.drawing.canvas, "draw") else None
    tables = [table.name for section in made for table in (*section.tables, *section.details)]
    assert len(set(tables)) == len(tables) and max(map(len, tables)) < 120
    if name == "no triangle":
        assert "no triangle has the most probable angles (10.0, 10.0, 10.0)" in str(made)
    if name == "too large to draw":
        titles = [axis.get_title() for section in made for f in section.figures for axis in f.drawing.axes]
        assert any("3 too large" in title for title in titles), titles


x_0 = torch.zeros(3, 3, 8, 8)
HEAT = ("mean_distance", "step_fraction", "lambdas")
ARRAYS: dict[str, dict[str, torch.Tensor]] = {
    "not finite": {"x_0": x_0 * NAN},
    "one sample": {"x_0": x_0[:1]},
    "no sample": {"x_0": x_0[:0]},
    "no pixel": {"x_0": x_0[..., :0]},
    "two channels": {"x_0": x_0[:, :2]},
    "no images": {"x_0": torch.zeros(3)},
    "small": {"x_0": x_0[..., :4, :4]},
    "others": {"y": torch.zeros(3)},
    "heat not finite": dict(zip(HEAT, (torch.full((2, 2), NAN), torch.ones(2), torch.arange(2.0)), strict=True)),
    "heat nowhere": dict(zip(HEAT, (torch.ones(2, 2), torch.full((2,), NAN), torch.arange(2.0)), strict=True)),
    "heat of a point": dict(zip(HEAT, (torch.zeros(1, 1), torch.ones(1), torch.zeros(1)), strict=True)),
    "heat without axes": dict(zip(HEAT, (torch.zeros(()), torch.zeros(()), torch.zeros(())), strict=True)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_any_shape_make_sections(name: str, tmp_path: Path) -> None:
    probe = ".trajectory_heatmap" if name.startswith("heat") else ""
    for seed in (0, 1):
        run = write_run(tmp_path / f"seed{seed}", seed, files=False, probes=("trajectory_heatmap",), steps=(0, 10))
        (run / "samples").mkdir()
        for step in (0, 10):
            save_file(
                {key: x.contiguous() for key, x in ARRAYS[name].items()},
                run / "samples" / f"step={step:08d}{probe}.safetensors",
            )
    made = {section.name: section for section in sections(tmp_path)}
    if name == "not finite":
        assert "The samples of seed0, seed1 are not finite images alike." in made["reproducibility"].missing


def test_arrays_of_a_type_that_numpy_lacks_are_left_out_in_words(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", files=False)
    (run / "samples").mkdir()
    save_file({"x_0": x_0.bfloat16()}, run / "samples" / "step=00000010.safetensors")
    (run_read,) = read_runs([run])
    with pytest.warns(UserWarning, match="arrays are left out"):
        assert run_read.own.folder.first_samples(10, 3) is None


def test_a_section_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def heat_map(comparison: Comparison) -> Section:
        """Something."""
        raise TypeError("a list")

    monkeypatch.setattr(watching, "SECTIONS", (SECTIONS[0], heat_map))
    run = write_run(tmp_path / "run", files=False, probes=("training",), steps=(0,))
    with pytest.warns(UserWarning, match="heat-map is left out, .*TypeError: a list"):
        written, _ = watching.build([run], tmp_path / "out", None)
    page = written.page.read_text()
    assert "heat-map is left out" in page and ">Something</h2>" in page and written.num_tables == 2


def test_a_page_is_not_written_among_the_files_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", files=False, probes=("training",), steps=(0,))
    (run / "samples").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for out in (run, run / "samples", run / "probes"):
        assert report([str(run), "--out", str(out)]) == 1
        assert f"--out must be a folder of its own, got {out}, which is a run's" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert report([str(run), str(run), "--out", str(run / "page")]) == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "1.5", "10000000", "9" * 5000, "x"])
def test_seconds_are_whole_and_fit_a_clock(seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report([str(tmp_path), "--out", str(tmp_path / "out"), f"--watch={seconds}"])
    assert "--watch: must be a whole number of seconds, 1..999999" in capsys.readouterr().err


def test_pipes_and_links_among_runs_are_neither_waited_for_nor_followed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", files=False, probes=("training",), steps=(0,))
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "linked").symlink_to(run)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "records.jsonl")
    for name in ("inversion_methods.json", "whitening.json", "error.txt", "lineage.json"):
        os.mkfifo(run / name)
    for name in ("samples/step=00000000.safetensors", "pictures/step=00000000.inversion_angles.latents.png"):
        (run / name).parent.mkdir()
        os.mkfifo(run / name)
    assert find_runs(tmp_path) == [run]
    assert runs([str(tmp_path)]) == 0
    assert [path.path for path in read_runs([tmp_path])] == [run]
    sections(tmp_path)


def test_folders_may_be_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * 300)).mkdir(parents=True)
    run = write_run(tmp_path / "z", files=False, probes=("training",), steps=(0,))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert find_runs(tmp_path) == [run]
    finally:
        sys.setrecursionlimit(limit)


def test_an_unreadable_folder_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "a", files=False, probes=("training",), steps=(0,))
    (tmp_path / "locked").mkdir()
    listed = Path.iterdir

    def iterdir(path: Path) -> Any:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.warns(UserWarning, match="locked is left out, for it cannot be read: Permission denied"):
        assert find_runs(tmp_path) == [run]
