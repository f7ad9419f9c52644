"""Images behind an analysis, as a model diffuses them: those of a run or a folder, and files that a user names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probediff.data import ImageFolder, ImageTensors
from probediff.data.base import ImageArray, fingerprint
from probediff.models.base import ProbeModel
from probediff.models.run import Diffusion, load_run_data, read_run_config
from probediff.prepare.decoding import DECODING, square_pixels
from probediff.prepare.sources import ImageFile, list_images

_CHUNK = 256

Shape = tuple[int, int, int]


def _unchanged(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Space:
    """What a model diffuses, or a model that is not there yet would.

    Attributes:
        shape: (C, H, W) of a noise.
        pixel_shape: (c, h, w) of an image.
        codes: pixels in [-1, 1] -> what is diffused, on the CPU.
        pixels: the way back.
    """

    shape: Shape
    pixel_shape: Shape
    codes: Callable[[Tensor], Tensor] = _unchanged
    pixels: Callable[[Tensor], Tensor] = _unchanged

    @classmethod
    def of(cls, model: ProbeModel) -> Space:
        """That of a model."""
        return cls(model.image_shape, model.pixel_shape, model.codes, model.pixels)


@dataclass(frozen=True)
class RealImages:
    """Images that are read in chunks.

    Attributes:
        array: (N, C, H, W) uint8.
        name: where they come from, for the record.
        mirrored: whether each counts with its mirror image, as for a model that was trained with flips.
        codes: pixels -> codes, for a latent diffusion model.
        folder: the folder that they were decoded from, if they were.
    """

    array: ImageArray
    name: str
    mirrored: bool = False
    codes: Callable[[Tensor], Tensor] = _unchanged
    folder: ImageFolder | None = None

    def __len__(self) -> int:
        return len(self.array)

    @cached_property
    def conventions(self) -> dict[str, Any]:
        """What tells these images from any others, for the records of numbers that depend on them.

        ``images`` is their name, ``images_sha256`` the first 16 hexadecimal digits of a SHA-256 over the relative paths
        and the bytes of the files of a folder, which are all read, or else over number, shape, the first and the last
        images (``probediff.data.base.fingerprint``); ``decoding`` says how files became pixels.
        """
        if self.folder is None:
            return {"images": self.name, "images_sha256": fingerprint(self.array)["sha256"]}
        digest = _digest_files(self.folder.path, self.folder.files)
        return {"images": self.name, "images_sha256": digest, "decoding": dict(DECODING)}

    def chunks(self, count: int) -> Iterator[Tensor]:
        """``count`` images, evenly chosen over the set: (B, C, H, W) in [-1, 1], or codes."""
        chosen = _evenly_chosen(len(self.array), count)
        for rows in np.split(chosen, range(_CHUNK, len(chosen), _CHUNK)):
            yield self._read(rows.tolist())

    def with_mirrors(self, count: int) -> Iterator[Tensor]:
        """The same, each chunk followed by its mirror images where these count."""
        for chunk in self.chunks(count):
            yield chunk
            if self.mirrored:
                yield chunk.flip(-1)

    def take(self, count: int) -> Tensor:
        """(n, C, H, W) images, evenly chosen over the set."""
        return torch.cat(list(self.chunks(count)))

    def first(self, count: int) -> Tensor:
        """(n, C, H, W) images, the first of the set."""
        return self._read(range(min(count, len(self.array))))

    def _read(self, rows: Sequence[int]) -> Tensor:
        return self.codes(ImageTensors(self.array).__getitems__(rows))


def run_images(run: Path, trust: bool = False) -> RealImages:
    """The training images of a run; mirrored where it flips them. ``trust`` as for ``load_run_data``."""
    data = load_run_data(run, trust)
    return RealImages(data.images, type(data).__name__, Diffusion.of(run, read_run_config(run)).random_flip)


def images_of_folder(path: Path, space: Space) -> RealImages:
    """All images of a folder, resized to what a model wants."""
    folder = ImageFolder(str(path), image_size=space.pixel_shape[-1], channels=space.pixel_shape[0])
    folder.setup()
    return RealImages(folder.images, folder.path.absolute().name, codes=space.codes, folder=folder)


def digest_images(images: Tensor) -> str:
    """What tells images from any others, for the records: 16 hexadecimal digits of a SHA-256 over shape and pixels.

    Args:
        images: (B, C, H, W) in [-1, 1] that were bytes, as `read_images` gives them.
    """
    pixels = images.add(1).mul(127.5).round().to(torch.uint8)
    return _digest_pixels(pixels.shape, pixels.cpu().numpy())


def image_files(names: Sequence[str]) -> list[Path]:
    """Files as they are, folders as all their images.

    Raises:
        FileNotFoundError: No such file or folder, or a folder without images.
    """
    files: list[Path] = []
    for path in (Path(name).expanduser() for name in names):
        if path.is_dir():
            files += [path / file.relative_path for file in list_images(path)]
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"IMAGE must be an image file or a folder of them, got {path}: not there")
    return files


def read_images(files: Sequence[Path], shape: Shape) -> Tensor:
    """Square images (B, c, h, w) in [-1, 1], resized and cropped as training images are.

    Raises:
        ValueError: A file that cannot be read, or is smaller than ``shape``.
    """
    if shape[1] != shape[2]:
        raise ValueError(f"images are cropped to squares, got a model of {shape[1]} x {shape[2]} pixels")
    rows = []
    for path in files:
        try:
            rows.append(torch.from_numpy(square_pixels(path, shape[1], shape[0]).copy()))
        except Exception as error:  # decoders raise anything
            raise ValueError(f"{path} must be an image of at least {shape[1]} pixels, got: {error}") from error
    return torch.stack(rows).float().div_(127.5).sub_(1.0)


def _evenly_chosen(total: int, count: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def _digest_pixels(shape: Sequence[int], pixels: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(f"{tuple(shape)}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:16]


def _digest_files(folder: Path, files: Sequence[ImageFile]) -> str:
    digest = hashlib.sha256()
    for relative_path in sorted(file.relative_path for file in files):
        digest.update(f"{relative_path}\0".encode("utf-8", "surrogateescape"))
        with open(folder / relative_path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
