"""What a user names as a file is one, and arrays in it are plain numbers: everything else is one line, at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from probediff.commands.fit import fit
from probediff.data import CIFAR10, ImageFolder, ImageNet64, PreparedImages, StreamedImages
from probediff.editing.noise_search import NoiseSearch
from probediff.editing.noises import FoundNoises
from probediff.files import load_whole, map_array, read_checkpoint, read_weights, verify_tensors
from probediff.measures.whitening import WhiteningTransform
from probediff.models.images import Space, image_files
from probediff.models.published import load_published
from probediff.prepare.images import prepare_images
from probediff.prepare.manifest import verify
from probediff.sweep.file import read_sweep
from probediff.whitening.statistics import StatisticsSource, load_whitening, save_whitening

ARRAY = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)

#: Whatever opens something that a user names.
READERS: dict[str, Callable[[Path], Any]] = {
    "array": map_array,
    "arrays": lambda path: CIFAR10(arrays=str(path)).load(),
    "labels": lambda path: CIFAR10(arrays=[str(path.with_name("images.npy")), str(path)]).load(),
    "checkpoint": read_checkpoint,
    "checksum": verify_tensors,
    "tensors": load_whole,
    "weights": read_weights,
    "noises": FoundNoises.load,
    "statistics": load_whitening,
    "model": lambda path: load_published(str(path.with_suffix(".pt"))),
    "image": lambda path: image_files([str(path)]),
    "folder": lambda path: ImageFolder(str(path), 8).prepare_data(),
    "sweep": read_sweep,
    "source": lambda path: prepare_images(path, path.with_name("out"), 8, 1),
    "prepared": lambda path: PreparedImages(str(path)),
    "stream": lambda path: StreamedImages(str(path), 8).load(),
}
#: Whatever opens a file of a name of its own in a folder that a user names.
INSIDE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "manifest": ("manifest.json", lambda folder: PreparedImages(str(folder))),
    "manifest of photographs": ("manifest.json", lambda folder: ImageNet64(str(folder))),
    "verified": ("manifest.json", verify),
    "index": ("index.json", lambda folder: StreamedImages(str(folder), 8).load()),
    "arrays": ("train_images.npy", lambda folder: CIFAR10(arrays=str(folder)).load()),
    "batches": ("cifar-10-batches-py", lambda folder: CIFAR10(root=str(folder)).load()),
}


def refuse(work: Callable[[], Any]) -> str:
    """The words of an error that a command prints."""
    with pytest.raises((OSError, ValueError, ImportError, RuntimeError)) as error:
        work()
    return str(error.value)


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_keeps_nobody_waiting(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 3, 32, 32), np.uint8))
    for suffix in (".npy", ".pt"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    assert "\n" not in refuse(lambda: READERS[name](tmp_path / "pipe.npy"))


@pytest.mark.parametrize("name", INSIDE)
def test_a_pipe_in_a_folder_keeps_nobody_waiting(name: str, tmp_path: Path) -> None:
    file, read = INSIDE[name]
    os.mkfifo(tmp_path / file)
    assert "\n" not in refuse(lambda: read(tmp_path))


@pytest.mark.parametrize("options", [["--config"], ["--config="], ["--config", "configs/digits.yaml", "--data="]])
def test_a_pipe_is_no_configuration(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    *others, last = options
    named = [f"{last}{tmp_path}/a.yaml"] if last.endswith("=") else [last, f"{tmp_path}/a.yaml"]
    with pytest.raises(SystemExit) as stopped:
        fit([*others, *named])
    assert stopped.value.code == 2
    assert f"error: {tmp_path}/a.yaml must be a plain file, got a pipe; name a file" in capsys.readouterr().err


def test_statistics_are_not_compared_with_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    whitening = WhiteningTransform(torch.zeros(3), torch.ones(3), torch.eye(3), 0.0)
    save_whitening(whitening, tmp_path / "there.safetensors")
    source = StatisticsSource(
        statistics=str(tmp_path / "there.safetensors"), save_statistics=str(tmp_path / "pipe.safetensors")
    )
    assert "must be a file, got" in refuse(lambda: source.describe(Space((3, 1, 1), (3, 1, 1))))


def write_npz(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), images=ARRAY)
    path.with_suffix(".npz").rename(path)


def write_bomb(path: Path) -> None:
    """Ten megabytes of zeros in ten kilobytes; none of them is unpacked."""
    np.savez_compressed(path.with_suffix(".npz"), images=np.zeros(10**7, np.uint8))
    path.with_suffix(".npz").rename(path)


ODD_ARRAYS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "npz": (
        write_npz,
        r"an .npz, an archive of arrays: take one of them out with numpy.save\('images.npy', numpy.load",
    ),
    "bomb": (write_bomb, "an archive of arrays"),
    "objects": (lambda path: np.save(path, np.array([{}, 1], object), allow_pickle=True), "which may run code and are"),
    "cut": (lambda path: path.write_bytes(bytes_of(ARRAY)[:-1]), r"it is cut off: copy or save it again"),
    "header": (lambda path: path.write_bytes(bytes_of(ARRAY)[:40]), "reading array header"),
    "empty": (lambda path: path.write_bytes(b""), "got another"),
    "text": (lambda path: path.write_text("no array"), "got another"),
    "floats": (lambda path: np.save(path, np.zeros((2, 3, 32, 32))), "must hold uint8 images .* got float64"),
    "rank": (lambda path: np.save(path, np.zeros((3, 32, 32), np.uint8)), r"got uint8 \(3, 32, 32\)"),
    "number": (lambda path: np.save(path, np.uint8(3)), r"got uint8 \(\)"),
    "fields": (lambda path: np.save(path, np.zeros(2, "u1,u1")), "must hold uint8 images"),
}


def bytes_of(array: np.ndarray) -> bytes:
    with tempfile.TemporaryFile() as file:
        np.save(file, array)
        file.seek(0)
        return file.read()


@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_arrays_of_another_kind_are_refused_with_the_cure(kind: str, tmp_path: Path) -> None:
    write, words = ODD_ARRAYS[kind]
    write(tmp_path / "images.npy")
    with pytest.raises(ValueError, match=words) as error:
        CIFAR10(arrays=str(tmp_path / "images.npy")).load()
    assert "\n" not in str(error.value)
    assert "allow_pickle" not in str(error.value)


def test_labels_may_be_no_list(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 3, 32, 32), np.uint8))
    np.save(tmp_path / "labels.npy", np.uint8(2))
    with pytest.raises(ValueError, match=r"must be as many, got 2 images in .* and labels of shape \(\)"):
        CIFAR10(arrays=[str(tmp_path / "images.npy"), str(tmp_path / "labels.npy")]).load()


@pytest.mark.parametrize("layout", ["C", "F"])
def test_both_layouts_of_memory_are_the_same_images(layout: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", np.asarray(images, order=layout))
    np.testing.assert_array_equal(CIFAR10(arrays=str(tmp_path / "a.npy")).load(), images.transpose(0, 3, 1, 2))


@given(st.integers(0, 150), st.binary(min_size=1, max_size=12))
@example(70, b"(9" + b"9" * 25 + b",)")
@settings(max_examples=40, deadline=None)
def test_a_damaged_array_is_read_or_refused(place: int, damage: bytes) -> None:
    content = bytes_of(ARRAY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npy")
        path.write_bytes(content[:place] + damage + content[place + len(damage) :])
        try:
            map_array(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} must be an .npy file of numbers, got another (")
            assert "\n" not in str(error)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 1, 3, 8, 8)])
def test_noises_and_statistics_of_odd_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    odd = np.zeros(shape, np.float32)
    words = {"names": "{", "conventions": "{}", "ridge": "0.0"}
    tensors = {
        name: odd
        for name in ("mean", "eigenvalues", "eigenvectors", "images", *(field.name for field in fields(NoiseSearch)))
    }
    save_file(tensors, tmp_path / "a.safetensors", words)
    assert "\n" not in refuse(lambda: load_whitening(tmp_path / "a.safetensors"))
    for names in ("{", "3", '["a", "b"]', "{}"):
        save_file(tensors, tmp_path / "a.safetensors", words | {"names": names})
        assert "\n" not in refuse(lambda: FoundNoises.load(tmp_path / "a.safetensors"))
