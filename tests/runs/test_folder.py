"""The run folder, the tables made from it, and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probediff.pictures import grid, to_uint8, triangle
from probediff.report.table import format_table, probe_tables, run_summary
from probediff.runs.folder import RunFolder
from probediff.runs.provenance import provenance


def test_records_are_appended_and_valid_json(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create()
    folder.append({"step": 0, "probe": "a", "values": {"x": 1.0, "y": float("nan")}})
    folder.append({"step": 5, "probe": "a"}, {"step": 5, "probe": "b"})
    RunFolder(tmp_path / "run").create()
    assert [(record["step"], record["probe"]) for record in folder.records()] == [(0, "a"), (5, "a"), (5, "b")]
    assert folder.records()[0]["values"] == {"x": 1.0, "y": None}
    for line in folder.records_path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append({"step": 0, "probe": "a"})
    with folder.records_path.open("a") as file:
        file.write('{"step": 5, "pro')
    assert folder.records() == [{"step": 0, "probe": "a"}]


def test_rewinding_drops_what_came_later_or_was_cut_short(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    events = [{"step": step, "probe": probe} for step in (0, 2, 5) for probe in ("a", "timing")]
    folder.append(*events, {"step": 0, "probe": "a_final"}, {"step": 5, "probe": "run"})
    for step in (0, 2, 5):
        folder.save_samples(step, torch.zeros(1, 1, 2, 2))
    assert folder.is_finished()
    assert folder.rewind(5)
    assert folder.records() == events
    assert not folder.is_finished()
    folder.append({"step": 7, "probe": "a"})
    assert not folder.rewind(7)
    assert folder.records() == events
    assert folder.rewind(2)
    assert folder.records() == events[:4]
    assert folder.sample_steps() == [0, 2]


def test_samples_survive_to_half_precision(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    x_0 = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    folder.save_samples(10, x_0)
    folder.save_arrays(10, "probe", {"a": torch.ones(2)})
    assert folder.sample_steps() == [10]
    assert float((folder.load_samples(10) - x_0).abs().max()) < 1 / 255 / 8
    assert not list((tmp_path / "samples").glob("*.partial"))


def test_a_picture_is_what_was_given(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    picture = torch.arange(3 * 5 * 4, dtype=torch.uint8).reshape(3, 5, 4)
    path = folder.save_picture(7, "probe.name", picture)
    assert path.name == "step=00000007.probe.name.png"
    assert (np.asarray(Image.open(path)).transpose(2, 0, 1) == picture.numpy()).all()


def test_to_uint8_and_grid() -> None:
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(4, 1, 1, 1).expand(4, 1, 8, 8)
    pixels = to_uint8(images)
    assert pixels.shape == (4, 3, 8, 8)
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 128, 255]
    assert to_uint8(images, (-2, 2))[:, 0, 0, 0].tolist() == [0, 64, 128, 191]
    assert grid(pixels, 2).shape == (3, 2 * 66 + 2, 2 * 66 + 2)


@pytest.mark.parametrize("angles", [(60, 60, 60), (20, 30, 130), (0, 0, 180), (100, 79.5, 0.5), (130, 20, 30)])
def test_triangles_fit_their_picture(angles: tuple[float, float, float]) -> None:
    picture = triangle(*angles, size_px=240)
    assert picture.shape == (3, 160, 240)
    assert picture.dtype == torch.uint8
    dark = (picture < 128).all(0)
    assert dark.any()
    assert not dark[[0, -1]].any()
    assert not dark[:, [0, -1]].any()


def test_triangles_must_close() -> None:
    with pytest.raises(ValueError, match="angles must sum to 180, got 60, 60, 70"):
        triangle(60, 60, 70)


def test_provenance_names_versions_and_commit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.save_config("seed_everything: 0\n")
    text = (tmp_path / "config.yaml").read_text()
    assert f"# torch: {torch.__version__.split('+')[0]}" in text
    assert "# git_commit: " in text
    assert text.endswith("seed_everything: 0\n")
    assert {"python", "lightning", "wandb", "device"} <= provenance().keys()


def test_tables_have_a_line_a_step() -> None:
    records = [
        {"step": 10, "probe": "a", "values": {"x": 0.123456, "n": 20.0}},
        {"step": 0, "probe": "a", "values": {"x": None}},
        {"step": 0, "probe": "b", "values": {"y": 1.0}},
    ]
    lines = probe_tables(records).splitlines()
    assert lines[0] == "a"
    assert lines[1].split() == ["step", "x", "n"]
    assert lines[3].split() == ["0", "-", "-"]
    assert lines[4].split() == ["10", "0.1235", "20"]
    assert lines[6] == "b"
    assert format_table(["a", "bb"], [[1, 2]]) == "a  bb\n-  --\n1   2"


def test_the_summary_says_where_everything_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append({"step": 0, "probe": "a", "values": {"x": 1.0}})
    summary = run_summary(folder)
    for place in ("pictures", "records.jsonl", "checkpoints"):
        assert str(tmp_path / place) in summary
    assert "leet" not in summary
    (tmp_path / "wandb").mkdir()
    assert "wandb leet" in run_summary(folder)
