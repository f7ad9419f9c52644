"""Preparing image sets: what is written, and what is refused."""

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probediff.prepare.decoding import square_pixels
from probediff.prepare.images import prepare_images
from probediff.prepare.manifest import read_manifest
from tests.prepare.tiny_sets import contents, pixels, prepared


def test_every_image_is_decoded_in_order(source: Path, out: Path) -> None:
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.[pJ]*"))
    good = [name for name in names if "broken" not in name and "small" not in name]
    expected = np.stack([square_pixels(source / name, 8, 3) for name in good])
    manifest = read_manifest(out)
    shards = [np.load(out / shard.file) for shard in manifest.shards]
    np.testing.assert_array_equal(np.concatenate(shards), expected)
    assert [len(shard) for shard in shards] == [shard.count for shard in manifest.shards]
    assert len(shards) == 8
    assert manifest.num_images == 21
    assert sorted(path.name for path in out.iterdir()) == [
        *(shard.file for shard in manifest.shards),
        "manifest.json",
        "unreadable.tsv",
    ]
    digests = [hashlib.sha256((out / shard.file).read_bytes()).hexdigest() for shard in manifest.shards]
    assert digests == [shard.sha256 for shard in manifest.shards]


def test_unreadable_files_are_listed(out: Path) -> None:
    lines = (out / "unreadable.tsv").read_text().splitlines()
    assert lines == [
        "name\treason",
        "n0/n0_broken.JPEG\tcannot identify image file",
        "n2/n2_small.png\tis 30 x 7 pixels, smaller than image_size 8",
    ]


def test_the_number_of_processes_changes_nothing(source: Path, out: Path, tmp_path: Path) -> None:
    assert contents(prepared(source, tmp_path / "one", 1)) == contents(out)


def test_too_little_space_is_told_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"OUT needs 0.0 GB more, got .* with 0.0 GB free; free some or choose another"):
        prepared(source, tmp_path / "out")


def test_a_finished_set_is_left_alone(source: Path, out: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    prepared(source, out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.npy")} == times


def test_other_sets_in_out_are_refused(source: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with images of 8 pixels \(now 4\); give the SOURCE and --image_size that"):
        prepare_images(source, out, 4, 1, images_per_shard=3)
    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "n0" / "n0_0.png").unlink()
    with pytest.raises(ValueError, match=r"with 23 files of other names or sizes \(now 22\)"):
        prepared(other, out)
    with pytest.raises(ValueError, match="with a set of another version of this program"):
        prepare_images(source, out, 8, 1, images_per_shard=4)
    with pytest.raises(
        ValueError, match=r"OUT must be new, empty or begun by this command, got .*, which holds n\d; name"
    ):
        prepared(source, other)
    (tmp_path / "begun").mkdir()
    identity = json.loads((out / "manifest.json").read_text())["identity"] | {"image_size": 16}
    (tmp_path / "begun" / "unfinished.json").write_text(json.dumps(identity))
    with pytest.raises(ValueError, match="with images of 16 pixels"):
        prepared(source, tmp_path / "begun")


def test_wrong_sources_and_places_are_refused(source: Path, tars: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"SOURCE must be a folder of images .*there is no such file or folder"):
        prepared(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"SOURCE must hold at least one image, got .*empty: none found; give a"
    ):
        prepared(tmp_path / "empty", tmp_path / "out")
    for place in (source, source / "n0" / "out"):
        with pytest.raises(ValueError, match=r"OUT must not lie in SOURCE, got .*; name a folder outside of it"):
            prepared(source, place)
    shutil.copytree(tars[1], tmp_path / "mixed")
    Image.fromarray(pixels(0)).save(tmp_path / "mixed" / "a.png")
    with pytest.raises(
        ValueError, match=r"either images or class tars, got both in .*: a.png and n0.tar; move one kind"
    ):
        prepared(tmp_path / "mixed", tmp_path / "out")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "train.tar").symlink_to(tars[0])
    with pytest.raises(
        ValueError, match=r"must hold class tars, got .*train.tar, a tar of tars; give that file itself"
    ):
        prepared(tmp_path / "nested", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"OUT must be a folder that can be written to, got .*file.*; choose another"):
        prepared(source, tmp_path / "file" / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1 files and none of them can \(a.png: cannot identify image file\); check"):
        prepared(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_wrong_arguments(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        prepare_images(source, tmp_path / "out", 0, 1)
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        prepare_images(source, tmp_path / "out", 8, 0)


def test_one_command_at_a_time(source: Path, tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ValueError, match=r"OUT is being written by another process, got .*; wait for it to end"):
            prepared(source, tmp_path)
    finally:
        os.close(held)
