"""Whitening statistics: of which images they are, and the file that keeps them."""

import math
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from probediff.files import load_tensors, save_tensors
from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from probediff.models.images import RealImages, Space, images_of_folder, run_images

_TENSORS = ("mean", "eigenvalues", "eigenvectors")


def save_whitening(whitening: WhiteningTransform, path: str | PathLike[str]) -> None:
    """Write statistics as safetensors: 8 D (D + 2) bytes, 1.2 GB at D = 12,288."""
    tensors = {name: getattr(whitening, name) for name in _TENSORS}
    save_tensors(Path(path), tensors, {"format": "probediff whitening", "ridge": repr(whitening.ridge)})


def load_whitening(path: str | PathLike[str]) -> WhiteningTransform:
    """Read what `save_whitening` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"whitening statistics must be a file, got {path}; write it with save_whitening")
    tensors, words = load_tensors(Path(path), _TENSORS, ["ridge"], "hold whitening statistics")
    mean, eigenvalues, eigenvectors = tensors.values()
    size = len(mean)
    if not (mean.shape == eigenvalues.shape == (size,) and eigenvectors.shape == (size, size)):
        raise ValueError(f"{path} must hold (D,), (D,) and (D, D) tensors, got other shapes; make it anew")
    if not (bool(torch.isfinite(eigenvectors).all()) and bool((eigenvalues > 0).all())):
        raise ValueError(f"{path} must hold finite statistics with positive eigenvalues, got others; make it anew")
    return WhiteningTransform(mean, eigenvalues, eigenvectors, float(words["ridge"]))


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
            _, channels, height, width = run_images(Path(self.run)).array.shape
            shape = channels, height, width
        elif self.statistics is not None:
            shape = _square(len(load_whitening(self.statistics).mean))
        elif image_size is not None:
            shape = channels, image_size, image_size
        else:
            raise ValueError("--images needs a size to resize to: give --image_size, or --model")
        return Space(shape, shape)

    def load(self, space: Space) -> tuple[WhiteningTransform, dict[str, Any]]:
        """The statistics, and how they were made, as plain types for the record.

        Raises:
            ValueError: Images of another size than the space, or too few of them.
        """
        if self.statistics is not None:
            whitening = load_whitening(self.statistics)
            origin: dict[str, Any] = {"source": Path(self.statistics).name, "ridge": whitening.ridge}
        else:
            images = self._images(space)
            count = len(images) if self.num_images is None else min(self.num_images, len(images))
            estimate = moments(images.with_mirrors(count))
            whitening = WhiteningTransform.from_covariance(estimate.mean, estimate.covariance, self.ridge)
            origin = {"source": images.name, "num_images": count, "mirrored": images.mirrored, "ridge": self.ridge}
        if len(whitening.mean) != math.prod(space.shape):
            raise ValueError(
                f"the whitening statistics must be of {math.prod(space.shape)} values, the size of a noise "
                f"{tuple(space.shape)}, got {len(whitening.mean)}; make them for this model"
            )
        if self.save_statistics is not None:
            save_whitening(whitening, self.save_statistics)
        return whitening, origin

    def _images(self, space: Space) -> RealImages:
        if self.run is None:
            return images_of_folder(Path(str(self.images)), space)
        images = run_images(Path(self.run))
        if images.array.shape[1:] != space.pixel_shape:
            raise ValueError(
                f"the images of --run must be {space.pixel_shape} for this model, got {images.array.shape[1:]}; "
                "give --images FOLDER, which resizes"
            )
        return replace(images, codes=space.codes)


def _square(num_values: int) -> tuple[int, int, int]:
    """Shape of square images, RGB or grey, of so many values; 3 s^2 and s^2 never agree.

    Raises:
        ValueError: There are no such images.
    """
    for channels in (3, 1):
        side = math.isqrt(num_values // channels)
        if side and channels * side * side == num_values:
            return channels, side, side
    raise ValueError(
        f"statistics of {num_values} values are not those of square RGB or grey images; give --model, the model "
        "whose codes they describe"
    )
