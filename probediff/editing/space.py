"""What a noise is searched for, images of pixels or the codes of a latent diffusion model, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probediff.data import ImageFolder
from probediff.measures.covariance import moments
from probediff.measures.whitening import Whitening
from probediff.models import ProbeModel
from probediff.models.images import RealImages, run_images
from probediff.prepare.decoding import square_pixels
from probediff.prepare.sources import list_images

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Space:
    """Where noises live.

    Attributes:
        shape: (C, H, W) of a noise.
        pixel_shape: (C, H, W) of an image.
        encode: pixels in [-1, 1] -> codes; None where noises are those of pixels.
        decode: codes -> pixels, likewise.
    """

    shape: Shape
    pixel_shape: Shape
    encode: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of_pixels(cls, shape: Shape) -> Space:
        """That of a model of pixels."""
        return cls(shape, shape)

    @classmethod
    def of(cls, model: ProbeModel) -> Space:
        """What a model diffuses."""
        if model.decode is None:
            return cls.of_pixels(model.image_shape)
        _, channels, height, width = model.decode(torch.zeros(1, *model.image_shape)).shape
        return cls(model.image_shape, (channels, height, width), model.encode, model.decode)

    @classmethod
    def of_size(cls, num_values: int) -> Space:
        """Square images, RGB or grey, of so many values; 3 s^2 and s^2 never agree.

        Raises:
            ValueError: There are no such images.
        """
        for channels in (3, 1):
            side = math.isqrt(num_values // channels)
            if side and channels * side * side == num_values:
                return cls.of_pixels((channels, side, side))
        raise ValueError(
            f"statistics of {num_values} values are not those of square RGB or grey images; give --model, the model "
            "whose codes they describe"
        )

    def pixels(self, codes: Tensor) -> Tensor:
        """Images (B, c, h, w) of codes (B, C, H, W)."""
        return codes if self.decode is None else self.decode(codes)

    def codes(self, pixels: Tensor, device: torch.device) -> Tensor:
        """What is diffused for pixels (B, c, h, w): (B, C, H, W)."""
        return pixels.to(device) if self.encode is None else self.encode(pixels.to(device))


def image_files(names: Sequence[str]) -> list[Path]:
    """Files as they are, folders as all their images.

    Raises:
        FileNotFoundError: No such file or folder, or a folder without images.
    """
    found: list[Path] = []
    for path in (Path(name).expanduser() for name in names):
        if path.is_dir():
            found += [path / file.relative_path for file in list_images(path)]
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"IMAGE must be an image file or a folder of them, got {path}: not there")
    return found


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


@dataclass(frozen=True)
class StatisticsSource:
    """Where the whitening statistics come from: one of run, images and statistics.

    Args:
        run: the training images of a run.
        images: all images of a folder.
        statistics: a file that save_statistics wrote.
        save_statistics: write them to this file (.safetensors) for the next time.
        num_images: images for them, evenly chosen; all by default.
        ridge: share of the mean variance that is added to every value's.
    """

    run: str | None = None
    images: str | None = None
    statistics: str | None = None
    save_statistics: str | None = None
    num_images: int | None = None
    ridge: float = 0.0

    def check(self) -> None:
        """Raise ValueError unless exactly one source is named."""
        named = [f"--{name}" for name in ("run", "images", "statistics") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"the whitening statistics must come from one of --run, --images, --statistics, got "
                f"{' and '.join(named) or 'none'}"
            )
        if self.statistics is not None and (self.ridge or self.num_images is not None):
            raise ValueError("--ridge and --num_images belong to --run and --images: statistics in a file are finished")
        if self.num_images is not None and self.num_images < 1:
            raise ValueError(f"--num_images must be at least 1, got {self.num_images}")

    def space(self, image_size: int | None, channels: int) -> Space:
        """The pixels that the source has, where no model says how large they are.

        Raises:
            ValueError: A folder, whose images have no size of their own.
        """
        if self.run is not None:
            channels, height, width = run_images(Path(self.run)).array.shape[1:]
            return Space.of_pixels((channels, height, width))
        if self.statistics is not None:
            return Space.of_size(len(Whitening.load(self.statistics).mean))
        if image_size is None:
            raise ValueError("--images needs a size to resize to: give --image_size, or --model")
        return Space.of_pixels((channels, image_size, image_size))


def whitening_statistics(
    source: StatisticsSource, space: Space, device: torch.device
) -> tuple[Whitening, dict[str, Any]]:
    """The statistics of a source, and how they were made, as plain types for the record.

    Raises:
        ValueError: Images of another size than the space, or too few of them.
    """
    if source.statistics is not None:
        whitening = Whitening.load(source.statistics)
        made: dict[str, Any] = {"source": Path(source.statistics).name, "ridge": whitening.ridge}
    else:
        images = _images(source, space, device)
        count = len(images) if source.num_images is None else min(source.num_images, len(images))
        found = moments(images.with_mirrors(count))
        whitening = Whitening.from_covariance(found.mean, found.covariance, source.ridge)
        made = {"source": images.name, "num_images": count, "mirrored": images.mirrored, "ridge": source.ridge}
    if len(whitening.mean) != math.prod(space.shape):
        raise ValueError(
            f"the whitening statistics must be of {math.prod(space.shape)} values, the size of a noise "
            f"{tuple(space.shape)}, got {len(whitening.mean)}; make them for this model"
        )
    if source.save_statistics is not None:
        whitening.save(source.save_statistics)
    return whitening, made


def _images(source: StatisticsSource, space: Space, device: torch.device) -> RealImages:
    if source.run is not None:
        images = run_images(Path(source.run))
        if tuple(images.array.shape[1:]) != space.pixel_shape:
            raise ValueError(
                f"the images of --run must be {space.pixel_shape} for this model, got {tuple(images.array.shape[1:])}; "
                "give --images FOLDER, which resizes"
            )
    else:
        folder = ImageFolder(str(source.images), image_size=space.pixel_shape[-1], channels=space.pixel_shape[0])
        folder.setup()
        images = RealImages(folder.images, False, None, Path(str(source.images)).name)
    if space.encode is None:
        return images
    return replace(images, encode=lambda pixels: space.codes(pixels, device).cpu())
