"""Whitening statistics: of which images they are, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from probediff.files import digest_tensors, explain_disk_errors, load_tensors, save_tensors
from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from probediff.models.images import RealImages, Space, images_of_folder, run_images
from probediff.runs.conditions import as_json

_TENSORS = ("mean", "eigenvalues", "eigenvectors")
#: What images are called; beside it stands the digest of their content.
_NAME = "source"


def digest_whitening(whitening: WhiteningTransform) -> str:
    """What tells statistics from any others, for the records; see ``probediff.files.digest_tensors``."""
    return digest_tensors((name, getattr(whitening, name)) for name in _TENSORS)


def save_whitening(
    whitening: WhiteningTransform, path: str | PathLike[str], origin: Mapping[str, Any] | None = None
) -> None:
    """Write statistics as safetensors: 8 D (D + 2) bytes, 1.2 GB at D = 12,288.

    Args:
        whitening: the statistics.
        path: the file.
        origin: how they were made, as plain types.
    """
    tensors = {name: getattr(whitening, name) for name in _TENSORS}
    words = {"format": "probediff whitening", "ridge": repr(whitening.ridge), "origin": json.dumps(origin)}
    save_tensors(Path(path), tensors, words)


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
    size = mean.numel()
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
        save_statistics: write them to this file (.safetensors) for the next time; other ones in it are left alone.
        num_images: images for them, evenly chosen; all by default.
        ridge: share of the mean variance that is added to every value's.
        trust: import and run the class of the run's data, also if it is none of this package.
    """

    run: str | None = None
    images: str | None = None
    statistics: str | None = None
    save_statistics: str | None = None
    num_images: int | None = None
    ridge: float = 0.0
    trust: bool = False

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

    def space(self, image_size: int | None, channels: int | None) -> Space:
        """The pixels that the source has, where no model says how large they are.

        Args:
            image_size: of a folder, whose images have no size of their own.
            channels: likewise; 3 by default.

        Raises:
            ValueError: A size is missing, or given for what has one.
        """
        for name, value in (("image_size", image_size), ("channels", channels)):
            if value is not None and self.images is None:
                owner = "--run" if self.run is not None else "--statistics"
                raise ValueError(f"--{name} must be left out for {owner}, which has its own, got {value}")
        if self.run is not None:
            _, channels, height, width = run_images(Path(self.run), self.trust).array.shape
            shape = channels, height, width
        elif self.statistics is not None:
            shape = _square(len(load_whitening(self.statistics).mean))
        elif image_size is not None:
            shape = channels or 3, image_size, image_size
        else:
            raise ValueError("--images needs a size to resize to: give --image_size, or --model")
        return Space(shape, shape)

    def describe(self, space: Space, codes: Mapping[str, Any] | None = None) -> Statistics:
        """What the statistics will be; nothing is computed yet.

        Args:
            space: what they are for.
            codes: what the codes of images depend on, for the record; nothing for pixels.

        Raises:
            ValueError: images or statistics of another size than the space, or a file to save them in with others.
        """
        if self.statistics is not None:
            whitening = load_whitening(self.statistics)
            _check_size(whitening, space)
            origin: dict[str, Any] = {
                _NAME: Path(self.statistics).name,
                "ridge": whitening.ridge,
                "sha256": digest_whitening(whitening),
            }
            compute: Callable[[], WhiteningTransform] = partial(_same, whitening)
        else:
            images = self._images(space)
            count = len(images) if self.num_images is None else min(self.num_images, len(images))
            content = {_NAME if name == "images" else name: value for name, value in images.conventions.items()}
            shapes = {"shape": list(space.shape), "pixel_shape": list(space.pixel_shape)}
            how = {"num_images": count, "mirrored": images.mirrored, "ridge": self.ridge}
            origin = {**content, **how, **shapes, **(codes or {})}
            compute = partial(_estimate, images, count, self.ridge)
        if self.save_statistics is None or not Path(self.save_statistics).exists():
            return Statistics(origin, compute, save_to=self.save_statistics)
        _check_same(Path(self.save_statistics), origin)
        return Statistics(origin, partial(load_whitening, self.save_statistics), there=self.save_statistics)

    def _images(self, space: Space) -> RealImages:
        if self.run is None:
            return images_of_folder(Path(str(self.images)), space)
        images = run_images(Path(self.run), self.trust)
        if images.array.shape[1:] != space.pixel_shape:
            raise ValueError(
                f"the images of --run must be {space.pixel_shape} for this model, got {images.array.shape[1:]}; "
                "give --images FOLDER, which resizes"
            )
        return replace(images, codes=space.codes)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Whitening statistics that `StatisticsSource` describes, before they are there.

    Attributes:
        origin: all that they depend on, as plain types for the record.
        compute: makes or reads them.
        save_to: a new file to keep them in.
        there: the file that was to keep them, and does already.
    """

    origin: dict[str, Any]
    compute: Callable[[], WhiteningTransform]
    save_to: str | None = None
    there: str | None = None

    def load(self) -> tuple[WhiteningTransform, dict[str, Any]]:
        """The statistics, and the origin with the digest of their content.

        Raises:
            ValueError: too few images.
        """
        whitening = self.compute()
        if self.save_to is not None:
            folder = Path(self.save_to).parent
            with explain_disk_errors(folder, "--save_statistics"):
                folder.mkdir(parents=True, exist_ok=True)
                save_whitening(whitening, self.save_to, self.origin)
        return whitening, self.origin | {"sha256": digest_whitening(whitening)}


def _same(whitening: WhiteningTransform) -> WhiteningTransform:
    return whitening


def _estimate(images: RealImages, count: int, ridge: float) -> WhiteningTransform:
    estimate = moments(images.with_mirrors(count))
    return WhiteningTransform.from_covariance(estimate.mean, estimate.covariance, ridge)


def _check_size(whitening: WhiteningTransform, space: Space) -> None:
    if len(whitening.mean) != math.prod(space.shape):
        raise ValueError(
            f"the whitening statistics must be of {math.prod(space.shape)} values, the size of a noise "
            f"{tuple(space.shape)}, got {len(whitening.mean)}; make them for this model"
        )


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    """Raise ValueError unless a file holds the statistics that are wanted."""
    there, origin = load_whitening(path), _read_origin(path)
    if "sha256" in wanted:  # finished ones are compared themselves; eigenvectors of others depend on the machine
        wanted, origin = {"sha256": wanted["sha256"]}, {"sha256": digest_whitening(there)}
    names = [name for name in dict.fromkeys([*wanted, *origin]) if name != _NAME]
    words = [
        f"{name} is {origin.get(name, 'unknown')} there and {wanted.get(name, 'nothing')} now"
        for name in names
        if origin.get(name) != as_json(wanted.get(name))
    ]
    if words:
        raise ValueError(
            f"--save_statistics must be a new file or one with the same statistics, got {path}: {'; '.join(words)}; "
            f"give another file, or remove {path}"
        )


def _read_origin(path: Path) -> dict[str, Any]:
    """How statistics in a file were made; empty in those of earlier versions, which did not say it."""
    with safe_open(path, "pt") as file:
        origin = json.loads((file.metadata() or {}).get("origin", "null"))
    return origin if isinstance(origin, dict) else {}


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
