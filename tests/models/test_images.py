"""Images behind a number are told apart by their content, and their decoding is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from probediff.models.images import (
    RealImages,
    Space,
    digest_images,
    image_files,
    images_of_folder,
    read_images,
    run_images,
)
from probediff.prepare.decoding import DECODING, DECODING_VERSION

SHAPE = (3, 8, 8)
SPACE = Space(SHAPE, SHAPE)


def random_pixels(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "A" / "digits"
    for seed, name in enumerate(("one.png", "more/two.png")):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_pixels(seed)).save(path / name)
    return path


def digest_of(folder: Path) -> str:
    digest = images_of_folder(folder, SPACE).conventions["images_sha256"]
    assert isinstance(digest, str)
    return digest


def test_a_folder_is_its_content_and_not_its_name(folder: Path, tmp_path: Path) -> None:
    conventions = images_of_folder(folder, SPACE).conventions
    assert conventions.keys() == {"images", "images_sha256", "decoding"}
    assert (conventions["images"], conventions["decoding"]) == ("digits", DECODING)
    assert len(conventions["images_sha256"]) == 16
    assert json.loads(json.dumps(conventions)) == conventions
    other = shutil.copytree(folder, tmp_path / "B" / "digits")
    assert images_of_folder(other, SPACE).conventions == conventions
    Image.fromarray(random_pixels(7)).save(other / "one.png")
    assert images_of_folder(other, SPACE).conventions["images"] == "digits"
    assert digest_of(other) != conventions["images_sha256"]


def test_a_file_that_was_replaced_added_or_renamed_is_another_folder(folder: Path) -> None:
    digests = [digest_of(folder)]
    status = (folder / "one.png").stat()
    content = bytearray((folder / "one.png").read_bytes())
    content[-1] ^= 1
    (folder / "one.png").write_bytes(content)
    os.utime(folder / "one.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    digests.append(digest_of(folder))
    (folder / "one.png").rename(folder / "zero.png")
    digests.append(digest_of(folder))
    shutil.copy(folder / "zero.png", folder / "another.png")
    digests.append(digest_of(folder))
    (folder / "notes.txt").write_text("no image")
    assert len(set(digests)) == 4
    assert digest_of(folder) == digests[-1]


def test_files_are_read_once_and_only_when_it_is_asked(folder: Path) -> None:
    images = images_of_folder(folder, SPACE)
    Image.fromarray(random_pixels(9)).save(folder / "one.png")
    conventions = images.conventions
    shutil.rmtree(folder)
    assert images.conventions is conventions


def test_arrays_are_told_apart_by_number_shape_and_pixels() -> None:
    array = random_pixels(0, (300, *SHAPE))

    def digest(array: np.ndarray) -> str:
        conventions = RealImages(array, "Digits").conventions
        assert conventions.keys() == {"images", "images_sha256"}
        return str(conventions["images_sha256"])

    changed = array.copy()
    changed[-1, -1, -1, -1] ^= 1
    flat = array.reshape(300, 3, 4, 16)
    assert digest(array) == digest(array.copy())
    assert len({digest(other) for other in (array, array[:299], changed, flat)}) == 4
    reads: list[int] = []

    class Counted:
        shape, dtype = (10**9, *SHAPE), array.dtype

        def __len__(self) -> int:
            return int(self.shape[0])

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            reads.append(len(rows))
            chosen: np.ndarray = array[rows % 300]
            return chosen

    RealImages(Counted(), "many").conventions  # noqa: B018 (reads)
    assert reads == [256]


def test_images_of_a_run(finished: Path) -> None:
    first, again = run_images(finished).conventions, run_images(finished).conventions
    assert first == again
    assert (first["images"], len(first["images_sha256"])) == ("Digits", 16)


def test_images_that_are_used_are_told_apart_by_their_pixels(folder: Path, tmp_path: Path) -> None:
    files = [folder / "one.png", folder / "more" / "two.png"]
    images = read_images(files, SHAPE)
    Image.open(files[0]).save(tmp_path / "elsewhere.bmp")
    assert digest_images(images) == digest_images(read_images([tmp_path / "elsewhere.bmp", files[1]], SHAPE))
    assert digest_images(images) != digest_images(images.flip(0))
    assert digest_images(images) != digest_images(images[:1])
    every = torch.arange(256).reshape(1, 1, 16, 16)
    steps = [every.float().div(127.5).sub(1), every.roll(1).float().div(127.5).sub(1)]
    assert digest_images(steps[0]) != digest_images(steps[1])
    assert digest_images(steps[0]) == RealImages(every.to(torch.uint8).numpy(), "").conventions["images_sha256"]


def test_what_is_said_of_decoding_is_what_is_done(folder: Path) -> None:
    """Each word of `DECODING`: a turned camera's tag, a transparent part, and the three steps of resizing."""
    assert DECODING == {
        "version": DECODING_VERSION,
        "exif_orientation": "followed",
        "alpha": "on white",
        "resize": "box halvings, bicubic, centre crop",
    }
    assert DECODING_VERSION == 2
    pixels = random_pixels(3, (40, 26, 3))
    pixels[:20] = 255
    half = Image.fromarray(pixels).resize((13, 20), Image.Resampling.BOX)
    square = np.asarray(half.resize((8, 12), Image.Resampling.BICUBIC).crop((0, 2, 8, 10)))
    turned = Image.Exif()
    turned[0x0112] = 6
    hidden = np.where(np.arange(40)[:, None, None] < 20, random_pixels(4, (40, 26, 3)), pixels)
    clear = np.dstack([hidden, np.where(np.arange(40)[:, None] < 20, 0, 255).astype(np.uint8).repeat(26, axis=1)])
    Image.fromarray(np.rot90(pixels)).save(folder / "turned.png", exif=turned)
    Image.fromarray(clear).save(folder / "clear.png")
    expected = torch.from_numpy(square.copy()).permute(2, 0, 1).float().div(127.5).sub(1)
    for image in read_images([folder / "turned.png", folder / "clear.png"], SHAPE):
        torch.testing.assert_close(image, expected, rtol=0, atol=0)
    assert images_of_folder(folder, SPACE).take(9).eq(expected).all(dim=(1, 2, 3)).sum() == 2


@pytest.mark.parametrize("shape", [(3, 8, 16), (3, 16, 8), (4, 8, 8), (2, 8, 8)])
def test_models_of_other_images_than_squares_are_refused(shape: tuple[int, int, int], folder: Path) -> None:
    words = rf"must be for a model of square RGB or grey images.*, got one of {shape[0]} channels and {shape[1]} x"
    with pytest.raises(
        ValueError, match=rf"the images of a folder \(--images, --reference\) {words}.*; leave them out"
    ):
        images_of_folder(folder, Space(shape, shape))
    with pytest.raises(ValueError, match=f"IMAGE {words}"):
        read_images([folder / "one.png"], shape)
    assert not (folder.parents[1] / "cache").exists()


def test_images_of_a_folder_in_a_run_say_how_they_were_decoded(folder: Path, finished: Path, tmp_path: Path) -> None:
    """So that statistics of an earlier decoding are not taken for those of this one."""
    run = shutil.copytree(finished, tmp_path / "run")
    for path in (folder / "one.png", folder / "more" / "two.png"):
        Image.open(path).convert("L").save(path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    arguments = {"path": str(folder), "image_size": 8, "channels": 1}
    config["data"] = {"class_path": "probediff.data.ImageFolder", "init_args": arguments}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "data.json").unlink()
    assert run_images(run).conventions["decoding"] == DECODING
    assert "decoding" not in run_images(finished).conventions


def test_files_that_are_named_must_be_plain(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe.png must be a plain file, got a pipe; name a file"):
        image_files([str(folder / "pipe.png")])
    with pytest.raises(FileNotFoundError, match=r"IMAGE must be an image file or a folder of them, got .*: not there"):
        image_files([str(folder / "absent.png")])
    with pytest.warns(UserWarning, match=r"left out of .*digits: 1 pipes, sockets or devices \('pipe.png'\)"):
        assert image_files([str(folder)]) == [folder / "more" / "two.png", folder / "one.png"]
