"""CIFAR-10 from torchvision's folder or from plain NumPy arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from probediff.data.base import ImageDataModule, evenly_chosen
from probediff.files import map_array

CURES = (
    "give data.root, the folder of torchvision's CIFAR-10 (download=true fetches it), or data.arrays, an .npy file of "
    "uint8 images (N, 3, 32, 32) or (N, 32, 32, 3) or a folder that holds train_images.npy"
)


class CIFAR10(ImageDataModule):
    """CIFAR-10's training images, 32 x 32 RGB, without labels; give exactly one of ``root`` and ``arrays``.

    Args:
        batch_size: Global batch size, shared by all processes; must divide by their number.
        root: Folder of torchvision's copy (the one that holds ``cifar-10-batches-py``).
        arrays: An .npy file of images (N, 3, 32, 32) or (N, 32, 32, 3) uint8; or a list of two .npy files, images and
            labels (labels are counted, not used); or a folder that holds ``train_images.npy``.
        download: Fetch torchvision's copy into ``root`` where it is missing.
        num_images: Take the first so many images only, for studies of the size of the training set; all by default.
        num_workers: Worker processes that read batches; 0 reads in the training process.

    Raises:
        ValueError: Neither or both of ``root`` and ``arrays`` are given, ``download`` without ``root``, or
            ``num_images`` < 1.
    """

    image_size = 32
    channels = 3

    def __init__(
        self,
        batch_size: int = 128,
        root: str | None = None,
        arrays: str | list[str] | None = None,
        download: bool = False,
        num_images: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if (root is None) == (arrays is None):
            count = "neither" if root is None else "both"
            raise ValueError(f"exactly one of root and arrays must be given, got {count}; {CURES}")
        if download and root is None:
            raise ValueError("download=true needs root, got arrays; name the folder to download to in root")
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}; leave it out to take all")
        self.root = root
        self.arrays = arrays
        self.download = download
        self.num_images = num_images

    def prepare_data(self) -> None:
        """Fetch torchvision's copy if ``download`` asks for it."""
        if self.download:
            _torchvision_images(self.root, download=True)

    def load(self) -> npt.NDArray[np.uint8]:
        """The training images (N, 3, 32, 32) uint8.

        Raises:
            FileNotFoundError: Nothing is found at ``root`` or ``arrays``.
            ValueError: A file is no array of images, labels do not match, or there are fewer than ``num_images``.
        """
        images = _torchvision_images(self.root) if self.arrays is None else _array_images(self.arrays)
        if self.num_images is not None and self.num_images > len(images):
            raise ValueError(f"num_images must lie in 1..{len(images)}, the images found, got {self.num_images}")
        return images[: self.num_images]

    def held_out_images(self, count: int) -> torch.Tensor | None:
        """``count`` of the test images of torchvision's copy, or of ``test_images.npy`` beside ``train_images.npy``."""
        if self.arrays is None:
            return evenly_chosen(_torchvision_images(self.root, train=False), count)
        path = _paths(self.arrays)[0].with_name("test_images.npy")
        is_there = _paths(self.arrays)[0].name == "train_images.npy" and path.is_file()
        return evenly_chosen(_array_images(str(path)), count) if is_there else None


def _torchvision_images(root: str | None, download: bool = False, train: bool = True) -> npt.NDArray[np.uint8]:
    from torchvision import datasets

    try:
        # torchvision compares every file with its known checksum before it reads it.
        dataset = datasets.CIFAR10(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(f"root must hold torchvision's CIFAR-10, got {root} ({error}); {CURES}") from error
    images: npt.NDArray[np.uint8] = dataset.data
    return images.transpose(0, 3, 1, 2)


def _array_images(arrays: str | list[str]) -> npt.NDArray[np.uint8]:
    paths = _paths(arrays)
    if not 1 <= len(paths) <= 2:
        raise ValueError(f"arrays must name one or two .npy files, images and labels, got {len(paths)}; {CURES}")
    images = _open_array(paths[0])
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or (shape[1:] != (3, 32, 32) and shape[1:] != (32, 32, 3)):
        raise ValueError(
            f"arrays must hold uint8 images (N, 3, 32, 32) or (N, 32, 32, 3), got {images.dtype} {shape} in "
            f"{paths[0]}; convert the file, or list images before labels"
        )
    if len(paths) == 2 and (labels_shape := _open_array(paths[1]).shape)[:1] != shape[:1]:
        raise ValueError(
            f"arrays: images and labels must be as many, got {len(images)} images in {paths[0]} and labels of shape "
            f"{labels_shape} in {paths[1]}; give the two files of one set"
        )
    return images if shape[1] == 3 else images.transpose(0, 3, 1, 2)


def _paths(arrays: str | list[str]) -> list[Path]:
    """The files that are named, those of a folder by their usual names."""
    paths = [Path(entry).expanduser() for entry in ([arrays] if isinstance(arrays, (str, Path)) else arrays)]
    if len(paths) == 1 and paths[0].is_dir():
        labels = paths[0] / "train_labels.npy"
        return [paths[0] / "train_images.npy", *([labels] if labels.exists() else [])]
    return paths


def _open_array(path: Path) -> npt.NDArray[Any]:
    try:
        return map_array(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"arrays: there is no file {path}; {CURES}") from error
    except ValueError as error:
        raise ValueError(f"arrays: {error}; {CURES}") from error
