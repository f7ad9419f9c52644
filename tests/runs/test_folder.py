"""The run folder: what is written there, and how much of it survives a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probediff.runs.catalogue import PROBES
from probediff.runs.descriptions import Column, Description
from probediff.runs.folder import RunFolder, probed_folder, probed_folders


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


def test_files_are_known_by_their_step_and_nothing_else_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    for step in (500, 20, 12_345_678):
        folder.checkpoint_path(step).touch()
        folder.save_arrays(step, "probe", {"a": torch.full((2,), float(step))})
    for name in ("step=00000030.ckpt.partial", "step=x.ckpt", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    assert list(folder.checkpoints()) == [20, 500, 12_345_678]
    assert folder.checkpoints()[500] == folder.checkpoint_path(500)
    assert folder.sample_steps() == []
    assert folder.newest_arrays("probe")["a"].tolist() == [12_345_678, 12_345_678]
    assert folder.newest_arrays("other") == {}
    (tmp_path / "samples" / "step=99999999.probe.safetensors").write_bytes(b"damaged")
    assert folder.newest_arrays("probe") == {}
    assert RunFolder(tmp_path / "nothing").checkpoints() == {}


def test_the_newest_picture_of_a_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    for step in (10, 200):
        for name in ("probe.name", "probe.name.more", "another_probe.name"):
            folder.save_picture(step, name, torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert folder.newest_picture("probe.name") == (200, tmp_path / "pictures" / "step=00000200.probe.name.png")
    assert folder.newest_picture("name") is None


def test_the_first_samples_are_read_without_the_others_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.save_samples(3, torch.arange(5 * 4.0).reshape(5, 1, 2, 2))
    np.testing.assert_array_equal(folder.first_samples(3, 2), folder.load_samples(3)[:2].numpy())
    np.testing.assert_array_equal(folder.first_samples(3, 9), folder.load_samples(3).numpy())
    assert folder.first_samples(4, 2) is None
    folder.sample_path(4).write_bytes(folder.sample_path(3).read_bytes()[:50])
    assert folder.first_samples(4, 2) is None


@pytest.mark.parametrize("line", ["not json", "[1]", '{"probe": "x"}', '{"step": 1}', '{"step": "1", "probe": "x"}'])
def test_damaged_records_are_refused_with_their_path(line: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.records_path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl cannot be read: .* \(line 1\); restore the file, or"):
        folder.records()


def test_the_last_step_and_whether_the_last_line_is_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.last_recorded_step() == 0
    folder.create().append({"step": 0, "probe": "a"}, {"step": 50, "probe": "a", "values": {"x": "y" * 100_000}})
    assert (folder.last_recorded_step(), folder.is_cut_short()) == (0, False)
    folder.append({"step": 70, "probe": "a"})
    with folder.records_path.open("a") as file:
        file.write('{"step": 99, "pro')
    assert (folder.last_recorded_step(), folder.is_cut_short()) == (70, True)


def test_what_lies_beside_the_records_is_read_or_empty(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert (folder.config(), folder.provenance(), folder.lineage()) == ({}, {}, {})
    folder.config_path.write_text("# torch: 2.11\n# a comment\nseed_everything: 1\n")
    lineage = {"trial": "a", "continues": [], "values": {"learning_rate": 1e-05}}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    assert folder.config() == {"seed_everything": 1}
    assert folder.provenance() == {"torch": "2.11"}
    assert folder.lineage() == lineage
    folder.config_path.write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml cannot be read"):
        folder.config()


def test_the_catalogue_of_a_folder_grows_and_cannot_change_what_is_known(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.catalogue() == PROBES
    mine = Description("mine", "Mine", "My section", (Column("x_deg", null="y"), Column("p", "picture")))
    folder.save_catalogue([mine, PROBES["inversion_angles"]])
    written = (tmp_path / "catalogue.json").stat().st_mtime_ns
    folder.save_catalogue([mine])
    assert (tmp_path / "catalogue.json").stat().st_mtime_ns == written
    folder.save_catalogue([Description("other"), Description("inversion_angles", "changed")])
    assert folder.catalogue() == PROBES | {"mine": mine, "other": Description("other")}
    (tmp_path / "catalogue.json").write_text('{"mine": {"colour": 1}}')
    with pytest.raises(ValueError, match=r"catalogue\.json is of another version"):
        folder.catalogue()


def test_folders_of_probes_are_found_by_their_records(tmp_path: Path) -> None:
    for num_steps in (10, 1000, 100):
        RunFolder(probed_folder(tmp_path, num_steps)).create()
    probed_folder(tmp_path, 7).mkdir()
    assert [path.name for path in probed_folders(tmp_path)] == ["num_steps=0010", "num_steps=0100", "num_steps=1000"]
