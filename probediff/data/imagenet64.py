"""ImageNet at 64 x 64 pixels, from a folder of its photographs or from a prepared folder."""

from typing import Any

from probediff.data.base import ImageArray
from probediff.data.folder import ImageFolder
from probediff.data.prepared import PreparedImages
from probediff.prepare.manifest import MANIFEST, UNFINISHED


class ImageNet64(ImageFolder):
    """ImageNet's training images at 64 x 64 RGB, resized as Nichol & Dhariwal did.

    Best from the folder that ``probediff prepare imagenet64`` wrote (see `PreparedImages`); a folder of photographs is
    decoded when training starts (see `ImageFolder`).

    Args:
        path: Prepared folder, or folder of the images, searched with all its subfolders (one a class).
        batch_size: Global batch size, shared by all processes; must divide by their number.
        cache_dir: Folder of images decoded when training starts; by default $XDG_CACHE_HOME/probediff or
            ~/.cache/probediff.
        num_workers: Worker processes that read batches; 0 reads in the training process.
        skip_unreadable: Leave out photographs that cannot be used, and name them, instead of refusing to train; a
            prepared folder holds none.

    Raises:
        FileNotFoundError: ``path`` is a prepared folder that is not finished.
        ValueError: ``path`` is a prepared folder that is damaged or of another size.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 128,
        cache_dir: str | None = None,
        num_workers: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(path, 64, batch_size, 3, cache_dir, num_workers, skip_unreadable)
        self._prepared: PreparedImages | None = None
        if (self.path / MANIFEST).exists() or (self.path / UNFINISHED).exists():
            self._prepared = PreparedImages(path, batch_size, num_workers)
            if self._prepared.image_size != 64:
                raise ValueError(
                    f"path must hold images of 64 pixels, got {path} with {self._prepared.image_size}; use "
                    "--data PreparedImages for other sizes"
                )

    def prepare_data(self) -> None:
        """Decode a folder of photographs into the cache; a prepared folder needs nothing."""
        if self._prepared is None:
            super().prepare_data()

    def load(self) -> ImageArray:
        """The images (N, 3, 64, 64) uint8, mapped into memory."""
        return super().load() if self._prepared is None else self._prepared.load()

    def describe(self) -> dict[str, Any]:
        """How files became pixels, and what was left out."""
        return super().describe() if self._prepared is None else self._prepared.describe()
