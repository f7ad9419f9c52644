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
from probediff.files import check_plain_file
from probediff.models.base import ProbeModel
from probediff.models.run import Diffusion, load_run_data, read_run_config
from probediff.prepare.decoding import DECODING, failure_reason, quiet_pillow, square_pixels
from probediff.prepare.sources import list_images
from probediff.prepare.walking import ImageFile, LeftOut

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
        folder: the folder that they were decoded from, where all its files are told apart.
        decoding: how files became pixels, where it is known.
    """

    array: ImageArray
    name: str
    mirrored: bool = False
    codes: Callable[[Tensor], Tensor] = _unchanged
    folder: ImageFolder | None = None
    decoding: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.array)

    @cached_property
    def conventions(self) -> dict[str, Any]:
        """What tells these images from any others, for the records of numbers that depend on them.

        ``images`` is their name, ``images_sha256`` the first 16 hexadecimal digits of a SHA-256 over the relative paths
        and the bytes of the files of a folder, which are all read, or else over number, shape, the first and the last
        images (``probediff.data.base.fingerprint``); ``decoding`` says how files became pixels, where there were files.
        """
        if self.folder is None:
            digest = fingerprint(self.array)["sha256"]
        else:
            digest = _digest_files(self.folder.path, self.folder.files)
        decoding = {} if self.decoding is None else {"decoding": self.decoding}
        return {"images": self.name, "images_sha256": digest, **decoding}

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
    mirrored = Diffusion.of(run, read_run_config(run)).random_flip
    return RealImages(data.images, type(data).__name__, mirrored, decoding=data.describe().get("decoding"))


def images_of_folder(path: Path, space: Space) -> RealImages:
    """All images of a folder, resized to what a model wants.

    Raises:
        FileNotFoundError: The folder is missing or holds no image.
        ValueError: Files cannot be used, or the model is not one of squares.
    """
    channels, size = _square_of(space.pixel_shape, "the images of a folder (--images, --reference)")
    folder = ImageFolder(str(path), image_size=size, channels=channels)
    folder.prepare_data()
    folder.setup()
    name = folder.path.absolute().name
    return RealImages(folder.images, name, codes=space.codes, folder=folder, decoding=dict(DECODING))


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
        ValueError: A pipe, a socket or a device.
    """
    files: list[Path] = []
    for path in (Path(name).expanduser() for name in names):
        if path.is_dir():
            left_out = LeftOut()
            files += [path / file.relative_path for file in list_images(path, left_out)]
            left_out.tell(path)
        elif path.exists():
            check_plain_file(path)
            files.append(path)
        else:
            raise FileNotFoundError(f"IMAGE must be an image file or a folder of them, got {path}: not there")
    return files


def read_images(files: Sequence[Path], shape: Shape) -> Tensor:
    """Square images (B, c, h, w) in [-1, 1], resized and cropped as training images are.

    Raises:
        ValueError: A file that cannot be read, or is smaller than ``shape``; or a ``shape`` that is no square.
    """
    channels, size = _square_of(shape, "IMAGE")
    rows = []
    with quiet_pillow():
        for path in files:
            try:
                rows.append(torch.from_numpy(square_pixels(path, size, channels).copy()))
            except MemoryError:
                raise
            except Exception as error:  # decoders raise anything
                raise ValueError(
                    f"{path} must be an image of at least {size} pixels, got: {failure_reason(error)}"
                ) from error
    return torch.stack(rows).float().div_(127.5).sub_(1.0)


def _square_of(shape: Shape, option: str) -> tuple[int, int]:
    """Channels and side of what ``option`` is cropped to."""
    channels, height, width = shape
    if height != width or channels not in (1, 3):
        raise ValueError(
            f"{option} must be for a model of square RGB or grey images, to which they are cropped, got one of "
            f"{channels} channels and {height} x {width} pixels; leave them out, or give another model"
        )
    return channels, height


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
