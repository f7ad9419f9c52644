"""Images that cannot be used are left out where that is asked for: counted, named, and written down."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from probediff.data import ImageFolder, ImageNet64, PreparedImages
from probediff.data.base import check_same_images, fingerprint
from probediff.prepare.images import prepare_images
from probediff.prepare.manifest import read_manifest

BROKEN = ("040.png", "064.png", "069.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """70 images of 4 x 4 pixels, more than one task decodes, three of which cannot be used; and a pipe."""
    path = tmp_path / "images"
    path.mkdir()
    for index in range(70):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(path / f"{index:03}.png")
    for name in BROKEN:
        (path / name).write_text("no image")
    os.mkfifo(path / "pipe.png")
    return path


def a_module(folder: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(str(folder), 4, cache_dir=str(folder.parent / "cache"), **settings)


def load(module: ImageFolder) -> np.ndarray:
    with pytest.warns(UserWarning):
        module.prepare_data()
    module.setup("fit")
    return np.asarray(module.images)


def test_unusable_files_are_left_out_and_named(folder: Path) -> None:
    module = a_module(folder, skip_unreadable=True)
    with pytest.warns(UserWarning) as heard:
        module.prepare_data()
    told, unreadable = [str(warning.message) for warning in heard]
    assert told == f"left out of {folder}: 1 pipes, sockets or devices ('pipe.png')"
    assert unreadable.splitlines() == [
        f"3 of 70 images in {folder} cannot be used and are left out:",
        *(f"  {name}: cannot identify image file" for name in BROKEN),
        f"The whole list is in {module.unreadable_file}",
    ]
    images = load(module)
    assert images.shape == (67, 3, 4, 4)
    kept = [index for index in range(70) if f"{index:03}.png" not in BROKEN]
    np.testing.assert_array_equal(images[:, 0, 0, 0], kept)
    np.testing.assert_array_equal(np.load(module.cache_file), images)
    again = a_module(folder, skip_unreadable=True)
    np.testing.assert_array_equal(load(again), images)
    assert again.describe() == module.describe()
    assert module.describe()["num_unreadable"] == 3
    assert module.describe()["unreadable"] == [[name, "cannot identify image file"] for name in BROKEN]
    assert module.describe()["left_out"] == {"pipes, sockets or devices": 1}
    assert json.loads(json.dumps(module.describe())) == module.describe()


def test_without_it_they_are_refused_and_the_option_is_named(folder: Path) -> None:
    module = a_module(folder)
    with pytest.raises(ValueError, match=r"3 of 70 images (.*\n)*.* leave them out \(--data.skip_unreadable true\)"):
        module.prepare_data()
    for name in BROKEN:
        (folder / name).unlink()
    whole, skipping = a_module(folder), a_module(folder, skip_unreadable=True)
    np.testing.assert_array_equal(load(whole), load(skipping))
    assert whole.cache_file != skipping.cache_file
    assert skipping.unreadable == whole.unreadable == []


def test_nothing_usable_is_an_error_all_the_same(folder: Path) -> None:
    for path in folder.glob("*[0-9].png"):
        path.write_text("no image")
    with pytest.raises(
        ValueError, match=r"70 of 70 images in .* cannot be used:\n(.*\n)*remove or repair them"
    ) as error:
        a_module(folder, skip_unreadable=True).prepare_data()
    assert "skip_unreadable" not in str(error.value)
    assert list((folder.parent / "cache").iterdir()) == []


def test_a_list_that_is_gone_or_damaged(folder: Path) -> None:
    module = a_module(folder, skip_unreadable=True)
    images = load(module)
    module.unreadable_file.write_text("{")
    with pytest.raises(ValueError, match=r"cache_dir must hold whole files, got .*unreadable.json, which is damaged"):
        module.describe()
    module.unreadable_file.unlink()
    np.testing.assert_array_equal(load(a_module(folder, skip_unreadable=True)), images)
    assert len(module.unreadable) == 3
    content = module.cache_file.read_bytes()
    module.cache_file.write_bytes(content[:-1])
    with pytest.raises(
        ValueError, match=r"cut off: copy or save it again\); remove it, and the images are decoded anew"
    ):
        a_module(folder, skip_unreadable=True).load()


def test_imagenet_photographs_too(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(folder / "large.png")
    module = ImageNet64(str(folder), cache_dir=str(tmp_path / "cache"), skip_unreadable=True)
    assert load(module).shape == (1, 3, 64, 64)
    assert module.describe()["num_unreadable"] == 70


def test_prepared_sets_of_an_earlier_decoding_are_trained_on_but_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """Their version stands in what a run writes of its images."""
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="left out of .*: 1 pipes, sockets or devices"):
        prepare_images(folder, out, 4, 1)
    assert read_manifest(out).left_out == {"pipes, sockets or devices": 1}
    data = PreparedImages(str(out))
    data.setup()
    assert data.describe() == {
        "decoding": {"version": 2},
        "left_out": {"pipes, sockets or devices": 1},
        "num_unreadable": 3,
    }
    content = json.loads((out / "manifest.json").read_text())
    content["identity"]["decoding_version"] = 1
    del content["left_out"]
    (out / "manifest.json").write_text(json.dumps(content))
    old = PreparedImages(str(out))
    old.setup()
    assert fingerprint(old.images) == fingerprint(data.images)
    assert old.describe() == {"decoding": {"version": 1}, "left_out": {}, "num_unreadable": 3}
    refused = re.escape("with a set of version 1 of the decoding (now 2), which can be trained on if it is finished")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "unfinished.json").write_text(json.dumps(content["identity"]))
    for place in (out, tmp_path / "begun"):
        with pytest.raises(ValueError, match=rf"{refused}.*; give the SOURCE .*or another OUT, or delete it"):
            prepare_images(folder, place, 4, 1)
    (tmp_path / "begun" / "unfinished.json").write_text("[]")
    with pytest.raises(ValueError, match=r"OUT must be begun by this command, got .*unfinished.json, which is damaged"):
        prepare_images(folder, tmp_path / "begun", 4, 1)


def test_a_run_with_images_of_an_earlier_decoding_is_told(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Only the ends of a set are compared, so that a photograph that is turned now may lie between them."""
    module = a_module(folder, skip_unreadable=True)
    load(module)
    recwarn.clear()
    known = fingerprint(module.images)
    check_same_images("RUN", {}, module)
    check_same_images("RUN", known | module.describe(), module)
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match=r"RUN began with images of version 1 of the decoding, now it is 2: photographs"
    ):
        check_same_images("RUN", known, module)
    with pytest.raises(ValueError, match="the images must be those that the run in RUN began with, got others"):
        check_same_images("RUN", known | {"sha256": "other"}, module)
