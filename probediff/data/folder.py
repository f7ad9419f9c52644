"""Any folder of images, decoded once into a memory map."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from probediff.data.base import ImageArray, ImageDataModule, cache_folder, check_image_shape
from probediff.files import whole_file
from probediff.prepare.decoding import DECODING_VERSION, square_pixels
from probediff.prepare.sources import ImageFile, list_images
from probediff.progress import progress_bar

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
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_image_shape(image_size, channels)
        self.path = Path(path).expanduser()
        self.image_size = image_size
        self.channels = channels
        self.cache_dir = cache_folder(cache_dir)

    @cached_property
    def files(self) -> list[ImageFile]:
        """The image files, sorted by relative path; listed once."""
        return list_images(self.path)

    @property
    def cache_file(self) -> Path:
        """File of the decoded images; its name changes with the files, their sizes and times, and the resizing."""
        text = repr((DECODING_VERSION, self.image_size, self.channels, [tuple(file) for file in self.files]))
        key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.cache_dir / f"images-{self.image_size}px-{self.channels}ch-{key}.npy"

    def prepare_data(self) -> None:
        """Decode all images into the cache unless they are there; Lightning calls it on one process a node.

        Raises:
            FileNotFoundError: The folder is missing or holds no image.
            ValueError: Files cannot be used; the message counts them and names the first ten.
        """
        if not self.cache_file.exists():
            decode_folder(self.path, self.files, self.cache_file, self.image_size, self.channels)

    def load(self) -> ImageArray:
        """The decoded images (N, C, image_size, image_size) uint8, as a read-only memory map."""
        self.prepare_data()
        images: npt.NDArray[np.uint8] = np.load(self.cache_file, mmap_mode="r", allow_pickle=False)
        return images


def decode_folder(folder: Path, files: list[ImageFile], target: Path, image_size: int, channels: int) -> None:
    """Decode image files into one .npy file (N, C, image_size, image_size) uint8, which appears only when whole.

    Args:
        folder: what the names of the files are relative to.
        files: the images, in the order of N.
        target: the .npy file; two machines may write it at once, with the same content.
        image_size: height and width in pixels.
        channels: 3 for RGB, 1 for grey.

    Raises:
        ValueError: Files cannot be used; the message counts them and names the first ten.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as partial:
        shape = (len(files), channels, image_size, image_size)
        images = np.lib.format.open_memmap(partial.name, mode="w+", dtype=np.uint8, shape=shape)
        if failures := _decode_all(folder, files, images):
            shown = "\n  ".join(failures[:ERRORS_SHOWN])
            more = f"\n  and {len(failures) - ERRORS_SHOWN} more" if len(failures) > ERRORS_SHOWN else ""
            raise ValueError(
                f"path: {len(failures)} of {len(files)} images in {folder} cannot be used:\n  {shown}{more}\n"
                "remove or repair them, or choose a smaller image_size where they are too small"
            )
        images.flush()


def _decode_all(folder: Path, files: list[ImageFile], images: npt.NDArray[np.uint8]) -> list[str]:
    """Fill ``images`` (N, C, H, W); return one line for each file that failed, in order."""
    _, channels, image_size, _ = images.shape

    def decode_some(start: int) -> list[str]:
        failures = []
        for index, file in enumerate(files[start : start + FILES_PER_TASK], start):
            try:
                images[index] = square_pixels(folder / file.relative_path, image_size, channels)
            except Exception as error:  # decoders raise anything, SyntaxError included; each failure is reported
                failures.append(f"{file.relative_path}: {error}")
        return failures

    failures: list[str] = []
    # Threads suffice: Pillow decodes and resizes outside the interpreter lock.
    with ThreadPoolExecutor() as pool, progress_bar(total=len(files), desc=f"decoding {folder}", unit="image") as bar:
        for lines in pool.map(decode_some, range(0, len(files), FILES_PER_TASK)):
            failures += lines
            bar.update(min(FILES_PER_TASK, len(files) - bar.n))
    return failures
