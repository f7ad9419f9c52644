"""What a prepared folder says about itself: manifest.json, written last."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from probediff.display.progress import progress_bar
from probediff.files import read_json, write_json
from probediff.prepare.decoding import DECODING_VERSION

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
UNREADABLE = "unreadable.tsv"
FORMAT = "probediff images 1"
_LARGEST = 2**40
_SHARD = re.compile(r"images-\d+\.npy")
# An .npy header of one array of images; NumPy leaves room for the count to grow.
HEADER_BYTES = 128


@dataclass(frozen=True)
class Identity:
    """What a prepared set is made from; two sets of one identity are the same bytes.

    Attributes:
        source_sha256: Digest of names and sizes of all source files.
        num_entries: Number of source files.
        image_size: Height and width in pixels.
        images_per_shard: Source files a shard.
        decoding_version: Version of decoding and resizing.
    """

    source_sha256: str
    num_entries: int
    image_size: int
    images_per_shard: int
    decoding_version: int = DECODING_VERSION


@dataclass(frozen=True)
class Shard:
    """One file of images.

    Attributes:
        file: Name in the folder.
        count: Number of images in it.
        sha256: Digest of the whole file.
        unreadable: (name, reason) of the source files that could not be read, in order.
    """

    file: str
    count: int
    sha256: str
    unreadable: tuple[tuple[str, str], ...]

    def is_present(self, folder: Path, image_size: int) -> bool:
        """Whether the file is there and as long as it should be."""
        path = folder / self.file
        return path.is_file() and path.stat().st_size == HEADER_BYTES + self.count * 3 * image_size**2


@dataclass(frozen=True)
class Manifest:
    """A finished set: images (N, 3, S, S) uint8, spread over shards in order.

    Attributes:
        identity: What it is made from.
        shards: Its files.
        left_out: Number of paths of the source that are no images, by reason; empty in sets of earlier versions.
    """

    identity: Identity
    shards: tuple[Shard, ...]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        """Images in all shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(name, reason) of all source files that could not be read, in order."""
        return [line for shard in self.shards for line in shard.unreadable]

    def missing(self, folder: Path) -> list[str]:
        """Names of the shards that are absent or of a wrong length."""
        return [s.file for s in self.shards if not s.is_present(folder, self.identity.image_size)]

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        write_json(folder / MANIFEST, {"format": FORMAT, "num_images": self.num_images, **asdict(self)})


def shard_from(record: dict[str, Any]) -> Shard:
    """A shard from its JSON record; raises KeyError, TypeError or ValueError where it is none."""
    lines = tuple((str(name), str(reason)) for name, reason in record["unreadable"])
    file, count = str(record["file"]), int(record["count"])
    if not _SHARD.fullmatch(file) or not 0 <= count < _LARGEST:
        raise ValueError(f"a shard must be a file in the folder, with its number of images, got {file[:80]!r}, {count}")
    return Shard(file, count, str(record["sha256"]), lines)


def identity_from(record: dict[str, Any]) -> Identity:
    """An identity from its JSON record; raises TypeError where it is none."""
    identity = Identity(**record)
    for part in fields(Identity):
        value = getattr(identity, part.name)
        if type(value) is not part.type or (isinstance(value, int) and not 0 <= value < _LARGEST):
            raise TypeError(f"{part.name} must be of another type or size, got {str(value)[:40]!r}")
    return identity


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished set.

    Raises:
        FileNotFoundError: There is none: the folder is no prepared set, or an unfinished one.
        ValueError: It is damaged, or of another version of this program.
    """
    try:
        content = read_json(folder / MANIFEST)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        left_out = {str(reason): int(count) for reason, count in content.get("left_out", {}).items()}
        shards = tuple(shard_from(record) for record in content["shards"])
        return Manifest(identity_from(content["identity"]), shards, left_out)
    except (FileNotFoundError, NotADirectoryError):
        if (folder / UNFINISHED).exists():
            cure = "its preparation has not ended: start the same `probediff prepare` command again"
        else:
            cure = "make one with `probediff prepare imagenet64 SOURCE OUT`"
        raise FileNotFoundError(f"path must be a prepared folder, got {folder} without {MANIFEST}; {cure}") from None
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"path must be a prepared folder, got {folder} whose {MANIFEST} cannot be used ({reason}); delete the "
            "folder and prepare it again"
        ) from error


def verify(folder: Path) -> Manifest:
    """Compare every shard of a finished set with its checksum.

    Raises:
        FileNotFoundError: The set is not finished.
        ValueError: Shards are missing or changed; the message names them.
    """
    manifest = read_manifest(folder)
    missing = set(manifest.missing(folder))

    def is_wrong(shard: Shard) -> bool:
        return shard.file in missing or file_sha256(folder / shard.file) != shard.sha256

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = progress_bar(
            pool.map(is_wrong, manifest.shards), total=len(manifest.shards), desc="verifying", unit="shard"
        )
        wrong = [shard.file for shard, bad in zip(manifest.shards, bar, strict=True) if bad]
    if wrong:
        raise ValueError(
            f"OUT: {len(wrong)} of {len(manifest.shards)} shards in {folder} are missing or do not match their "
            f"checksums: {', '.join(wrong)}; delete these files and start the command again without --verify: it makes "
            "them anew"
        )
    return manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
