"""Chunks of litdata: fetching them into a bounded cache, and reading images from them by memory map."""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probediff.data.pieces import ImagePieces
from probediff.files import check_plain_file

INDEX = "index.json"
CURE = "give the folder or URL that `probediff prepare stream` wrote"
# litdata's number of uint8 in the header that it writes before the bytes of every array.
UINT8 = 4
OPENING_TRIES = 8


@dataclass(frozen=True)
class Chunk:
    """One file of litdata: its name, size in bytes and number of images."""

    name: str
    num_bytes: int
    count: int


class ChunkStore:
    """Chunk files by name: in place for a local folder, else in a cache of bounded size that processes share.

    Args:
        url: Folder, or URL that litdata knows ("local:FOLDER" fetches from a folder as if it were remote).
        cache_dir: Folder of the caches.
        max_bytes: Size from which on the chunks opened longest ago are removed.

    Raises:
        OSError: The index cannot be fetched.
        ValueError: The index is of no set of plain uint8 arrays.
    """

    def __init__(self, url: str, cache_dir: Path, max_bytes: int) -> None:
        self.url = url.rstrip("/")
        self.max_bytes = max_bytes
        self.chunks: tuple[Chunk, ...] = ()
        if is_remote(url):
            cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
                self._download(Path(folder) / INDEX, CURE)
                index = (Path(folder) / INDEX).read_bytes()
            # A set that was written anew has another index, and so another cache.
            self.folder = cache_dir / f"chunks-{hashlib.sha256(self.url.encode() + index).hexdigest()[:32]}"
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            self.folder = Path(url).expanduser()
            try:
                check_plain_file(self.folder / INDEX)
                index = (self.folder / INDEX).read_bytes()
            except OSError as error:
                raise FileNotFoundError(
                    f"url must hold litdata's {INDEX}, got {self.folder}: none there; {CURE}"
                ) from error
        self.chunks = _chunks(index, url)

    def path(self, chunk: Chunk) -> Path:
        """The file of one chunk, fetched if it is not there.

        Raises:
            OSError: It cannot be fetched, or is not as long as the index says.
        """
        path = self.folder / chunk.name
        if is_remote(self.url):
            if not path.exists():
                self._fetch(chunk, path)
            with suppress(FileNotFoundError):
                os.utime(path)  # the latest use, for `_make_room`
        if path.exists() and path.stat().st_size != chunk.num_bytes:
            raise OSError(
                f"url: {path} must have {chunk.num_bytes} bytes, got {path.stat().st_size}; delete it, and copy the "
                "set again where it is read in place"
            )
        return path

    def _fetch(self, chunk: Chunk, path: Path) -> None:
        from filelock import FileLock

        # litdata leaves at once where another process fetches the same chunk, and the file is not there yet.
        with FileLock(path.with_suffix(".fetch")):
            if path.exists():
                return
            self._make_room(chunk.num_bytes)
            self._download(path, "check the network")
        if not path.exists():
            raise OSError(f"url: {self.url}/{chunk.name} cannot be fetched; check the network and the cache's disk")

    def _download(self, target: Path, cure: str) -> None:
        try:
            downloader = _downloader(self.url, target.parent, self.chunks, os.getpid())
            downloader.download_file(f"{self.url}/{target.name}", str(target))
        except Exception as error:  # each provider has its own classes
            raise OSError(f"url: {self.url}/{target.name} cannot be fetched ({error}); {cure}") from error

    def _make_room(self, num_bytes: int) -> None:
        """Remove the chunks opened longest ago. A process that still has one mapped can go on reading it."""
        files = []
        for path in self.folder.glob("*.bin"):
            with suppress(FileNotFoundError):
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        excess = sum(size for _, size, _ in files) + num_bytes - self.max_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def is_remote(url: str) -> bool:
    """Whether litdata has to fetch from ``url``."""
    return "://" in url or url.startswith("local:")


@lru_cache(maxsize=2)
def _downloader(url: str, folder: Path, chunks: tuple[Chunk, ...], process: int) -> Any:
    """The downloader of litdata, made in the process that uses it, because its threads do not survive a fork."""
    from litdata.streaming.downloader import get_downloader

    return get_downloader(url, str(folder), [{"filename": c.name, "chunk_bytes": c.num_bytes} for c in chunks])


class LitdataImages(ImagePieces):
    """Images in litdata's chunks.

    Args:
        store: Where the chunks are.
        image_shape: (C, H, W).
        max_open: Chunks kept mapped.

    Raises:
        ValueError: The store's cache is too small for ``max_open`` chunks.
    """

    def __init__(self, store: ChunkStore, image_shape: tuple[int, int, int], max_open: int) -> None:
        super().__init__([chunk.count for chunk in store.chunks], image_shape, max_open)
        largest = max(chunk.num_bytes for chunk in store.chunks)
        needed = min(max_open, len(store.chunks)) * largest
        if is_remote(store.url) and needed > store.max_bytes:
            raise ValueError(
                f"max_cache_gb must be at least {needed / 1e9:.3g} for this set, got {store.max_bytes / 1e9:.3g}; "
                "or chunks would be fetched again and again"
            )
        self.store = store

    def open_piece(self, number: int) -> npt.NDArray[Any]:
        """View of one chunk, which is fetched if it is not there."""
        chunk = self.store.chunks[number]
        for _ in range(OPENING_TRIES):
            # Another process may make room between fetching and opening.
            with suppress(FileNotFoundError):
                return chunk_view(self.store.path(chunk), chunk.count, self.shape[1:])
        raise OSError(f"cache_dir: {chunk.name} vanishes again and again; give a larger max_cache_gb")


def chunk_view(path: Path, count: int, image_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The images (n, C, H, W) of one chunk, as a view of its memory map.

    A chunk is the uint32 count, count + 1 uint32 offsets, and the items: each the uint32 size of the array, the uint32
    header (type, number of dimensions, dimensions) and its bytes. Equal shapes make equal strides.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It holds something else.
    """
    raw = np.memmap(path, np.uint8, mode="r")
    pixels = int(np.prod(image_shape))
    header = np.array([20 + pixels, UINT8, 3, *image_shape], np.uint32)
    begin, stride = 4 * (count + 2), header.nbytes + pixels
    offsets = np.append(np.uint32(count), begin + stride * np.arange(count + 1)).astype(np.uint32)
    if len(raw) == begin + stride * count and np.array_equal(raw[:begin].view(np.uint32), offsets):
        items = raw[begin:].reshape(count, stride)
        if (items[:, : header.nbytes] == header.view(np.uint8)).all():
            return items[:, header.nbytes :].reshape(count, *image_shape)
    raise ValueError(
        f"url must hold uint8 arrays {image_shape}, got others in {path}; set image_size and channels to those of the "
        f"set, or {CURE}"
    )


def _chunks(index: bytes, url: str) -> tuple[Chunk, ...]:
    try:
        content = json.loads(index)
        config = content["config"]
        chunks = tuple(Chunk(c["filename"], int(c["chunk_bytes"]), int(c["chunk_size"])) for c in content["chunks"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"url must hold litdata's {INDEX}, got a damaged one at {url} ({error}); {CURE}") from error
    if config.get("data_format") != ["numpy"] or config.get("compression") or config.get("encryption"):
        raise ValueError(
            f"url must hold one plain NumPy array an item, got {config.get('data_format')}, compression "
            f"{config.get('compression')} at {url}; {CURE}"
        )
    if not chunks:
        raise ValueError(f"url must hold at least one chunk, got none at {url}; {CURE}")
    return chunks
