"""Prepared folders as training data: the images of the gather, the two ways to name them, and what is refused."""

import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from probediff.data import ImageDataModule, ImageNet64, PreparedImages
from probediff.data.pieces import ImagePieces
from probediff.prepare.images import prepare_images

few = settings(max_examples=40, deadline=None, derandomize=True)


def make_source(folder: Path, size: int, num_images: int) -> Path:
    folder.mkdir()
    for index in range(num_images):
        pixels = np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    (folder / "003.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 4 x 4 pixels in shards of five files."""
    root = tmp_path_factory.mktemp("prepared")
    prepare_images(make_source(root / "source", 4, 25), root / "out", 4, 1, images_per_shard=5)
    return root / "out"


def whole(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


class Lists(ImagePieces):
    """Pieces in memory."""

    def __init__(self, counts: Sequence[int]) -> None:
        super().__init__(counts, (1, 1, 1))
        values = np.arange(len(self), dtype=np.uint8).reshape(-1, 1, 1, 1)
        self.pieces = np.split(values, np.cumsum(counts)[:-1])

    def open_piece(self, number: int) -> Any:
        assert len(self.pieces[number])
        return self.pieces[number]


@few
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any), st.data())
def test_a_gather_equals_the_indexing_of_one_array(counts: list[int], data: st.DataObject) -> None:
    images = Lists(counts)
    rows = data.draw(st.lists(st.integers(0, len(images) - 1), max_size=20))
    expected = np.arange(len(images))[np.asarray(rows, dtype=np.int64)]
    np.testing.assert_array_equal(images[np.asarray(rows, dtype=np.int64)][:, 0, 0, 0], expected)


@pytest.mark.parametrize("index", [-1, 6])
def test_indices_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match=rf"indices must lie in 0..5, got .*{index}"):
        _ = Lists([2, 4])[np.array([3, index])]


def test_the_memory_maps_hold_what_was_decoded(folder: Path) -> None:
    data = PreparedImages(str(folder), batch_size=6)
    assert (data.image_size, data.channels) == (4, 3)
    data.prepare_data()
    data.setup("fit")
    expected = whole(folder)
    assert len(expected) == len(data.images) == 24
    np.testing.assert_array_equal(data.images[np.arange(24)], expected)
    rows = np.random.default_rng(0).permutation(24)
    np.testing.assert_array_equal(data.images[rows], expected[rows])
    assert all(isinstance(shard, np.memmap) for shard in data.images.open_pieces([0, 4]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_follow_the_step(folder: Path, num_workers: int) -> None:
    data = PreparedImages(str(folder), 10, num_workers)
    data.setup("fit")
    order = data.order(seed=0)
    images = torch.from_numpy(whole(folder)).float() / 127.5 - 1
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    for step, batch in enumerate(batches):
        torch.testing.assert_close(batch, images[order.batch_indices(step)], rtol=0, atol=1e-6)


def test_worker_processes_get_no_copies(folder: Path) -> None:
    data = PreparedImages(str(folder))
    images = data.load()
    _ = images[np.arange(24)]
    copy = pickle.loads(pickle.dumps(images))
    assert copy._open == {}
    np.testing.assert_array_equal(copy[np.arange(24)], whole(folder))


def test_imagenet64_takes_both_kinds_of_folder(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", 64, 5)
    prepare_images(source, tmp_path / "out", 64, 1)
    (source / "003.png").unlink()
    modules = [ImageNet64(str(tmp_path / name), cache_dir=str(tmp_path / "cache")) for name in ("source", "out")]
    loaded = []
    for module in modules:
        module.prepare_data()
        module.setup("fit")
        loaded.append(module.images[np.arange(4)])
    np.testing.assert_array_equal(loaded[0], loaded[1])
    assert loaded[0].shape == (4, 3, 64, 64)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def refused(module: type[ImageDataModule], folder: Path, match: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=match):
        module(str(folder)).setup("fit")


def test_wrong_folders_are_refused_with_the_cure(folder: Path, tmp_path: Path) -> None:
    refused(PreparedImages, tmp_path, r"without manifest.json; make one with `probediff prepare im", FileNotFoundError)
    (tmp_path / "unfinished.json").write_text("{}")
    for module in (PreparedImages, ImageNet64):
        refused(module, tmp_path, r"has not ended: start the same `probediff prepare` command", FileNotFoundError)
    refused(ImageNet64, folder, r"path must hold images of 64 pixels, got .* with 4; use --data PreparedImages")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "images-00002.npy").write_bytes((broken / "images-00002.npy").read_bytes()[:-1])
    (broken / "images-00004.npy").unlink()
    refused(PreparedImages, broken, r"2 shards are missing or cut off \(images-00002.npy, ...\); start the same")
    manifest = json.loads((broken / "manifest.json").read_text())
    cases = {
        "no json": "cannot be used .*; delete the folder and prepare it again",
        "[]": "its format is not 'probediff images 1'",
        json.dumps(manifest | {"format": "probediff images 9"}): "its format is not",
        json.dumps(manifest | {"shards": [{}]}): "KeyError",
        json.dumps(manifest | {"identity": {}}): "TypeError",
    }
    for text, message in cases.items():
        (broken / "manifest.json").write_text(text)
        refused(PreparedImages, broken, message)


def test_300_images_of_tiny_imagenet(tmp_path: Path) -> None:
    """Real photographs of 64 x 64 pixels, greyscale ones among them: only the decoder touches them."""
    root = os.environ.get("PROBEDIFF_DATA")
    archive = Path(root or "") / "imagenet64" / "tiny_imagenet_train_100_per_class.tar.xz"
    if not root or not archive.exists():
        pytest.skip("PROBEDIFF_DATA names no folder that holds imagenet64/tiny_imagenet_train_100_per_class.tar.xz")
    with tarfile.open(archive) as tar:
        for index, member in enumerate(tar):
            if index % 66 == 1 and index < 300 * 66:
                tar.extract(member, tmp_path / "source", filter="data")
    manifest = prepare_images(tmp_path / "source", tmp_path / "out", 64, 2, images_per_shard=64)
    assert manifest.unreadable == []
    data = ImageNet64(str(tmp_path / "out"))
    data.setup("fit")
    originals = [Image.open(path) for path in sorted((tmp_path / "source").rglob("*.JPEG"))]
    assert {"L", "RGB"} <= {image.mode for image in originals}
    expected = np.stack([np.asarray(image.convert("RGB")) for image in originals]).transpose(0, 3, 1, 2)
    assert len(expected) == 300
    np.testing.assert_array_equal(data.images[np.arange(300)], expected)
