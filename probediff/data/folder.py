"""Any folder of images, decoded once into a memory map."""

import hashlib
import json
import math
import warnings
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probediff.data.base import ImageArray, ImageDataModule, cache_folder, check_image_shape
from probediff.display.progress import progress_bar
from probediff.display.text import printable
from probediff.files import map_array, whole_file, write_json
from probediff.prepare.decoding import DECODING, DECODING_VERSION, failure_reason, quiet_pillow, square_pixels
from probediff.prepare.manifest import HEADER_BYTES
from probediff.prepare.shards import array_header
from probediff.prepare.sources import list_images
from probediff.prepare.walking import ImageFile, LeftOut
from probediff.runs.folder import RECORDS

FILES_PER_TASK = 64
ERRORS_SHOWN = 10


class ImageFolder(ImageDataModule):
    """All images of a folder and its subfolders, sorted by path, resized and cropped to squares.

    Each image is decoded once, into one uint8 file that later runs map into memory. Grey images become RGB (or colour
    images grey, with ``channels=1``).

    Args:
        path: Folder of the images, searched with all its subfolders (.bmp, .jpeg, .jpg, .png, .webp, any case).
        image_size: Height and width in pixels; images whose shorter side is smaller are refused.
        batch_size: Global batch size, shared by all processes; must divide by their number.
        channels: 3 for RGB, 1 for grey.
        cache_dir: Folder of the decoded images; by default $XDG_CACHE_HOME/probediff or ~/.cache/probediff.
        num_workers: Worker processes that read batches; 0 reads in the training process.
        skip_unreadable: Leave out files that cannot be used, and name them, instead of refusing to train.

    Raises:
        ValueError: ``image_size`` < 1 or ``channels`` is neither 1 nor 3.
    """

    def __init__(
        self,
        path: str,
        image_size: int,
        batch_size: int = 128,
        channels: int = 3,
        cache_dir: str | None = None,
        num_workers: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_image_shape(image_size, channels)
        self.path = Path(path).expanduser()
        self.image_size = image_size
        self.channels = channels
        self.cache_dir = cache_folder(cache_dir)
        self.skip_unreadable = skip_unreadable
        self.left_out = LeftOut()

    @cached_property
    def files(self) -> list[ImageFile]:
        """The image files, sorted by relative path; listed once.

        Raises:
            ValueError: The folder is a run, whose images are figures.
        """
        if (self.path / RECORDS).is_file():
            raise ValueError(
                f"path must be a folder of images, got the run {self.path}, whose images are figures; name the folder "
                f"of the images that it was trained on"
            )
        return list_images(self.path, self.left_out)

    @cached_property
    def cache_file(self) -> Path:
        """File of the decoded images; its name changes with the files, their sizes and times, and the decoding."""
        settings = (DECODING_VERSION, self.image_size, self.channels, self.skip_unreadable)
        text = repr((settings, [tuple(file) for file in self.files]))
        key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.cache_dir / f"images-{self.image_size}px-{self.channels}ch-{key}.npy"

    @property
    def unreadable_file(self) -> Path:
        """File beside the cache with [path, reason] of each image that is left out, as JSON."""
        return self.cache_file.with_suffix(".unreadable.json")

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path, reason) of each image that is left out, once the images are decoded.

        Raises:
            ValueError: The list is damaged.
        """
        if not self.skip_unreadable:
            return []
        try:
            return [(str(name), str(reason)) for name, reason in json.loads(self.unreadable_file.read_text("utf-8"))]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"cache_dir must hold whole files, got {self.unreadable_file}, which is damaged ({error}); remove it, "
                "and the images are decoded anew"
            ) from error

    def prepare_data(self) -> None:
        """Decode all images into the cache unless they are there; Lightning calls it on one process a node.

        Raises:
            FileNotFoundError: The folder is missing or holds no image.
            OSError: A folder cannot be read.
            ValueError: Files cannot be used, or, where those are skipped, none can; the message counts them and names
                the first ten.
        """
        self._decode()
        self.left_out.tell(self.path)
        if unreadable := self.unreadable:
            warnings.warn(
                f"{len(unreadable)} of {len(self.files)} images in {self.path} cannot be used and are left out:"
                f"{shown_failures(unreadable)}\nThe whole list is in {self.unreadable_file}",
                stacklevel=2,
            )

    def load(self) -> ImageArray:
        """The decoded images (N, C, image_size, image_size) uint8, as a read-only memory map."""
        self._decode()
        try:
            return map_array(self.cache_file)
        except ValueError as error:
            raise ValueError(f"{error}; remove it, and the images are decoded anew") from error

    def describe(self) -> dict[str, Any]:
        """How files became pixels, and what the folder holds beside the images."""
        unreadable = self.unreadable
        return {
            "decoding": dict(DECODING),
            "left_out": self.left_out.counts,
            "num_unreadable": len(unreadable),
            "unreadable": [list(line) for line in unreadable[:ERRORS_SHOWN]],
        }

    def _decode(self) -> None:
        # The list is written first, and so is there when the images are.
        if self.cache_file.exists() and (self.unreadable_file.exists() or not self.skip_unreadable):
            return
        unreadable_file = self.unreadable_file if self.skip_unreadable else None
        decode_folder(self.path, self.files, self.cache_file, (self.channels, self.image_size), unreadable_file)


def shown_failures(failures: list[tuple[str, str]]) -> str:
    """A line for each of the first ten of (path, reason), and the number of the others."""
    lines = [f"\n  {printable(path)}: {reason}" for path, reason in failures[:ERRORS_SHOWN]]
    more = f"\n  and {len(failures) - ERRORS_SHOWN} more" if len(failures) > ERRORS_SHOWN else ""
    return "".join(lines) + more


def decode_folder(
    folder: Path, files: list[ImageFile], target: Path, size: tuple[int, int], unreadable_file: Path | None = None
) -> None:
    """Decode image files into one .npy file (N, C, image_size, image_size) uint8, which appears only when whole.

    Args:
        folder: what the names of the files are relative to.
        files: the images, in the order of N.
        target: the .npy file; two machines may write it at once, with the same content.
        size: channels, 3 for RGB and 1 for grey, and image_size, height and width in pixels.
        unreadable_file: where to write which files cannot be used; without it they are an error.

    Raises:
        ValueError: Files cannot be used; the message counts them and names the first ten.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    channels, image_size = size
    with whole_file(target) as partial:
        shape = (channels, image_size, image_size)
        images = np.lib.format.open_memmap(partial.name, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        failures = _decode_all(folder, files, images)
        unreadable = [(files[index].relative_path, reason) for index, reason in failures.items()]
        if failures and (unreadable_file is None or len(failures) == len(files)):
            ways = "" if unreadable_file else ", or, in training, leave them out (--data.skip_unreadable true)"
            raise ValueError(
                f"path: {len(failures)} of {len(files)} images in {folder} cannot be used:"
                f"{shown_failures(unreadable)}\n"
                f"remove or repair them, or choose a smaller image_size where they are too small{ways}"
            )
        if failures:
            _close_gaps(images, failures)
            images.flush()
            partial.truncate(HEADER_BYTES + (len(files) - len(failures)) * math.prod(shape))
            partial.write(array_header((len(files) - len(failures), *shape)))
        images.flush()
        if unreadable_file is not None:
            write_json(unreadable_file, unreadable)


def _decode_all(folder: Path, files: list[ImageFile], images: npt.NDArray[np.uint8]) -> dict[int, str]:
    """Fill ``images`` (N, C, H, W); return the reason of each file that failed by its index, in order."""
    _, channels, image_size, _ = images.shape

    def decode_some(start: int) -> dict[int, str]:
        failures = {}
        for index, file in enumerate(files[start : start + FILES_PER_TASK], start):
            try:
                images[index] = square_pixels(folder / file.relative_path, image_size, channels)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise anything, SyntaxError included; each failure is reported
                failures[index] = failure_reason(error)
        return failures

    failures: dict[int, str] = {}
    # Threads suffice: Pillow decodes and resizes outside the interpreter lock.
    with (
        quiet_pillow(),
        ThreadPoolExecutor() as pool,
        progress_bar(total=len(files), desc=f"decoding {folder}", unit="image") as bar,
    ):
        for some in pool.map(decode_some, range(0, len(files), FILES_PER_TASK)):
            failures |= some
            bar.update(min(FILES_PER_TASK, len(files) - bar.n))
    return failures


def _close_gaps(images: npt.NDArray[np.uint8], gaps: Collection[int]) -> None:
    """Move the images (N, C, H, W) that are no gaps to the front, in order and in place: there may be millions."""
    kept = np.setdiff1d(np.arange(len(images)), np.fromiter(gaps, np.int64))
    for start in range(0, len(kept), FILES_PER_TASK):
        rows = kept[start : start + FILES_PER_TASK]
        images[start : start + len(rows)] = images[rows]
