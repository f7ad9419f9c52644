"""What every data module of images shares: checks, scaling to [-1, 1] and the step-keyed order."""

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from probediff.data.sampler import StepKeyedBatchSampler
from probediff.files.capacity import WORKER_BYTES, check_memory

T = TypeVar("T")
#: So many images at each end of a set.
_FINGERPRINTED = 128


class ImageArray(Protocol):
    """What is needed of images (N, C, H, W) uint8: an array in memory, a memory map, or many files behind one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: npt.NDArray[np.int64], /) -> npt.NDArray[Any]: ...


class ImageTensors(Dataset[torch.Tensor]):
    """Map dataset of x_0 in [-1, 1] over an array of bytes.

    Args:
        images: (N, C, H, W) uint8, a memory map allowed.
    """

    def __init__(self, images: ImageArray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        """x_0 (C, H, W) float32 in [-1, 1] of one image."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        """x_0 (B, C, H, W) float32 in [-1, 1] of a batch, read in one gather."""
        rows = np.ascontiguousarray(self.images[np.asarray(indices, dtype=np.int64)])
        return torch.from_numpy(rows).to(torch.float32).div_(127.5).sub_(1.0)


class StepKeyedLoader(DataLoader[torch.Tensor]):
    """Loader whose only state is the trainer's count of batches.

    It says so with an empty state dict, or Lightning warns of every resume within an epoch that it is not exact.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the count is in the trainer's own state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


class ImageDataModule(lightning.LightningDataModule, ABC):
    """Unconditional training images; a subclass sets ``image_size`` and ``channels`` and implements `load`.

    Args:
        batch_size: Global batch size, shared by all processes; must divide by their number.
        num_workers: Worker processes that read batches; 0 reads in the training process.

    Raises:
        ValueError: ``batch_size`` < 1 or ``num_workers`` < 0.
    """

    image_size: int
    channels: int

    def __init__(self, batch_size: int = 128, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}; 0 reads in the training process")
        check_memory("num_workers", num_workers, num_workers * WORKER_BYTES, "each is a process; lower it")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._images: ImageArray | None = None

    @abstractmethod
    def load(self) -> ImageArray | torch.Tensor:
        """All training images (N, C, H, W) uint8; a memory map is welcome."""

    def describe(self) -> dict[str, Any]:
        """What else is to be known of the images, as plain types for the run's ``data.json``; nothing here."""
        return {}

    def setup(self, stage: str | None = None) -> None:
        """Load the images once and check them.

        Raises:
            ValueError: There is no image, or size, channels or dtype are not what the module promises.
        """
        if self._images is None:
            # Of a batch that several processes share, each makes its part.
            size = 4 * self.batch_size * self.channels * self.image_size**2
            num_processes = 1 if self.trainer is None else self.trainer.world_size
            check_memory("data.batch_size", self.batch_size, size / num_processes, "lower it")
            self._images = _check_images(self.load(), self.channels, self.image_size)

    @property
    def images(self) -> ImageArray:
        """The training images (N, C, H, W) uint8.

        Raises:
            RuntimeError: `setup` has not run.
        """
        if self._images is None:
            raise RuntimeError(f"{type(self).__name__}.images: nothing is loaded yet; call setup('fit') first")
        return self._images

    def real_images(self, count: int) -> torch.Tensor:
        """``count`` images (or all, where there are fewer), evenly chosen over the set: (n, C, H, W) in [-1, 1]."""
        return evenly_chosen(self.images, count)

    def held_out_images(self, count: int) -> torch.Tensor | None:
        """``count`` images of the same kind that are not trained on, chosen likewise; None where there are none."""
        return None

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        """Batches x_0 (B, C, H, W) float32 in [-1, 1], B = batch_size / number of processes, ordered by (seed, step).

        Seed, rank and number of processes come from the trainer (its module's ``seed``); without one they are 0, 0, 1.
        """
        return StepKeyedLoader(
            ImageTensors(self.images),
            batch_sampler=self._sampler(),
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def order(self, seed: int, rank: int = 0, world_size: int = 1) -> StepKeyedBatchSampler:
        """Batches of image indices of one process, a function of seed and step."""
        return StepKeyedBatchSampler(len(self.images), self.batch_size, seed, rank, world_size)

    def _sampler(self) -> StepKeyedBatchSampler:
        trainer = self.trainer
        if trainer is None:
            return self.order(seed=0)
        module = trainer.lightning_module
        if not isinstance(seed := getattr(module, "seed", None), int):
            raise TypeError(
                f"{type(module).__name__}.seed must be an int that keys the order of the images, got {seed!r}; "
                "set self.seed in the LightningModule"
            )
        sampler = self.order(seed, trainer.global_rank, trainer.world_size)
        # Not Lightning's epochs: one that max_steps or limit_train_batches cut short counts whole, and a resumed run
        # would skip images. The count of batches also keys the noise.
        sampler.follow(lambda: trainer.fit_loop.total_batch_idx + 1)
        return sampler


def evenly_chosen(images: ImageArray, count: int) -> torch.Tensor:
    """``count`` images (or all, where there are fewer), evenly chosen over the set: (n, C, H, W) in [-1, 1]."""
    total = len(images)
    chosen = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
    return ImageTensors(images).__getitems__(chosen.tolist())


def fingerprint(images: ImageArray) -> dict[str, Any]:
    """What tells a set of images from another: their number, shape, and a SHA-256 of the first and the last ones.

    Not of all: a stream would be fetched whole for it.
    """
    count = len(images)
    ends = {*range(min(_FINGERPRINTED, count)), *range(max(0, count - _FINGERPRINTED), count)}
    rows = np.ascontiguousarray(images[np.array(sorted(ends), dtype=np.int64)])
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(rows.data)
    return {"shape": list(images.shape), "sha256": digest.hexdigest()[:16]}


def check_same_images(run: str | Path, known: dict[str, Any], data: ImageDataModule) -> None:
    """Raise ValueError unless the images are those that a run began with, as far as that is known.

    Where only their decoding is known to be another one, most files became the same pixels, and a warning is enough.

    Args:
        run: its folder.
        known: what its ``data.json`` says.
        data: the images of now.
    """
    if not known:
        return
    now = fingerprint(data.images)
    if {key: known.get(key) for key in now} != now:
        there = {key: known.get(key) for key in now}
        raise ValueError(
            f"the images must be those that the run in {run} began with, got others: {there} there, {now} now; give "
            f"its data, or start another run"
        )
    version, then = data.describe().get("decoding", {}).get("version"), known.get("decoding")
    # Runs of earlier versions do not say it.
    begun = then.get("version") if isinstance(then, dict) else 1
    if version not in (None, begun):
        warnings.warn(
            f"the run in {run} began with images of version {begun} of the decoding, now it is {version}: photographs "
            "that were turned or are transparent may have become others among them",
            stacklevel=2,
        )


def check_image_shape(image_size: int, channels: int) -> None:
    """Raise ValueError unless images can have this height and width in pixels and so many channels."""
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 3 (RGB) or 1 (grey), got {channels}")


def cache_folder(cache_dir: str | None = None) -> Path:
    """``cache_dir``, or else $XDG_CACHE_HOME/probediff, or ~/.cache/probediff where that is unset or empty."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "probediff"


def _check_images(images: ImageArray | torch.Tensor, channels: int, image_size: int) -> ImageArray:
    array: ImageArray = images.numpy() if isinstance(images, torch.Tensor) else images
    expected = (channels, image_size, image_size)
    if array.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (0..255), got {array.dtype}; scale and convert them before saving")
    if len(array.shape) != 4 or array.shape[1:] != expected:
        raise ValueError(
            f"images must have shape (N, {channels}, {image_size}, {image_size}), got {tuple(array.shape)}; "
            "set image_size and channels to those of the data, or give other data"
        )
    if len(array) == 0:
        raise ValueError("images must hold at least one image, got 0; check the path of the data")
    return array


def _identity(batch: T) -> T:
    return batch
