"""Sets that ``probediff prepare`` decoded, read by memory map."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probediff.data.base import ImageDataModule
from probediff.data.pieces import ImagePieces
from probediff.files import map_array
from probediff.prepare.manifest import Manifest, read_manifest


class PreparedShards(ImagePieces):
    """The shards of a prepared folder, each mapped into memory when it is first needed.

    Args:
        folder: The prepared folder.
        manifest: What it says about itself.

    Raises:
        ValueError: Shards are missing or of a wrong length.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        size = manifest.identity.image_size
        super().__init__([shard.count for shard in manifest.shards], (3, size, size))
        if missing := manifest.missing(folder):
            raise ValueError(
                f"path must be a whole prepared folder, got {folder} where {len(missing)} shards are missing or cut "
                f"off ({missing[0]}, ...); start the same `probediff prepare` command again: it makes them anew"
            )
        self.files = [folder / shard.file for shard in manifest.shards]

    def open_piece(self, number: int) -> npt.NDArray[Any]:
        """Memory map of one shard."""
        wanted = (int(self.counts[number]), *self.shape[1:])
        shard = map_array(self.files[number])
        if shard.dtype != np.uint8 or shard.shape != wanted:
            raise ValueError(
                f"{self.files[number]} must hold images {wanted}, got something else: remove it, and start the "
                "same `probediff prepare` command again: it makes it anew"
            )
        return shard


class PreparedImages(ImageDataModule):
    """A set that ``probediff prepare imagenet64`` decoded: RGB images, mapped into memory and shared by all processes.

    Args:
        path: The prepared folder.
        batch_size: Global batch size, shared by all processes; must divide by their number.
        num_workers: Worker processes that read batches; 0 reads in the training process.

    Raises:
        FileNotFoundError: ``path`` is no prepared folder, or an unfinished one.
        ValueError: The folder's manifest is damaged.
    """

    channels = 3

    def __init__(self, path: str, batch_size: int = 128, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.path = Path(path).expanduser()
        self.manifest = read_manifest(self.path)
        self.image_size = self.manifest.identity.image_size

    def load(self) -> PreparedShards:
        """The images (N, 3, S, S) uint8; see `PreparedShards`.

        Raises:
            ValueError: Shards are missing or of a wrong length.
        """
        return PreparedShards(self.path, self.manifest)

    def describe(self) -> dict[str, Any]:
        """Which version decoded the set, perhaps an earlier one, and what its source held beside the images."""
        return {
            "decoding": {"version": self.manifest.identity.decoding_version},
            "left_out": self.manifest.left_out,
            "num_unreadable": len(self.manifest.unreadable),
        }
