"""The images behind an analysis: those of a run, or of a folder, as the model diffuses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probediff.data import ImageFolder, ImageTensors
from probediff.data.base import ImageArray
from probediff.models import ProbeModel, load_run_data
from probediff.models.run import read_run_config

_CHUNK = 256


@dataclass(frozen=True)
class RealImages:
    """Images that are read in chunks.

    Attributes:
        array: (N, C, H, W) uint8.
        mirrored: whether each counts with its mirror image, as for a model that was trained with flips.
        encode: pixels -> codes, for a latent diffusion model.
        name: where they come from, for the record.
    """

    array: ImageArray
    mirrored: bool
    encode: Callable[[Tensor], Tensor] | None
    name: str

    def __len__(self) -> int:
        return len(self.array)

    def chunks(self, count: int) -> Iterator[Tensor]:
        """``count`` images, evenly chosen over the set: (B, C, H, W) in [-1, 1], or codes."""
        total = len(self.array)
        chosen = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
        for rows in np.split(chosen, range(_CHUNK, len(chosen), _CHUNK)):
            pixels = ImageTensors(self.array).__getitems__(rows.tolist())
            yield self._encoded(pixels)

    def with_mirrors(self, count: int) -> Iterator[Tensor]:
        """The same, each chunk followed by its mirror images where these count."""
        for chunk in self.chunks(count):
            yield chunk
            if self.mirrored:
                yield chunk.flip(-1)

    def take(self, count: int) -> Tensor:
        """(n, C, H, W) images, evenly chosen over the set."""
        return torch.cat(list(self.chunks(count)))

    def _encoded(self, pixels: Tensor) -> Tensor:
        return pixels if self.encode is None else self.encode(pixels)


def run_images(run: Path) -> RealImages:
    """The training images of a run; mirrored where it flips them."""
    data = load_run_data(run)
    flipped = bool(read_run_config(run)["model"].get("random_flip"))
    return RealImages(data.images, flipped, None, type(data).__name__)


def images_of_folder(path: Path, model: ProbeModel) -> RealImages:
    """All images of a folder, resized to what the model wants."""
    shape = model.image_shape
    if model.decode is not None:
        shape = tuple(model.decode(torch.zeros(1, *shape)).shape[1:])  # type: ignore[assignment]
    folder = ImageFolder(str(path), image_size=shape[-1], channels=shape[0])
    folder.setup()
    return RealImages(folder.images, False, model.encode, path.name)


def folder_images(path: Path, model: ProbeModel, most: int) -> torch.Tensor:
    """The first ``most`` images of a folder as the model wants them, (N, C, H, W)."""
    shape = model.image_shape
    if model.decode is not None:
        shape = tuple(model.decode(torch.zeros(1, *shape)).shape[1:])  # type: ignore[assignment]
    folder = ImageFolder(str(path), image_size=shape[-1], channels=shape[0])
    folder.setup()
    images = ImageTensors(folder.images).__getitems__(range(min(most, len(folder.images))))
    return images if model.encode is None else model.encode(images)
