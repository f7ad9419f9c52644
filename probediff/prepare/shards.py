"""One shard: a fixed slice of the source, decoded in one worker process."""

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from probediff.files import read_json, whole_file, write_json
from probediff.prepare.decoding import failure_reason, square_pixels
from probediff.prepare.manifest import HEADER_BYTES, Shard, shard_from
from probediff.prepare.sources import Entry, read_entry


@dataclass(frozen=True)
class ShardTask:
    """What one worker is given: the slice ``entries`` of ``source`` becomes shard number ``index`` of ``folder``."""

    folder: Path
    index: int
    source: Path
    entries: list[Entry]
    image_size: int


def shard_name(index: int, suffix: str = ".npy") -> str:
    """File name of a shard, or of its record with the suffix .json."""
    return f"images-{index:05}{suffix}"


def write_shard(task: ShardTask) -> Shard:
    """Decode the images of one shard one by one into its file, then write its record beside it.

    Images that cannot be decoded are left out and named in the record.

    Raises:
        OSError: The folder cannot be written; nothing half-written is left.
    """
    unreadable: list[tuple[str, str]] = []
    count = 0
    with whole_file(task.folder / shard_name(task.index)) as file:
        file.write(array_header((count, 3, task.image_size, task.image_size)))
        for entry in task.entries:
            try:
                pixels = square_pixels(io.BytesIO(read_entry(task.source, entry)), task.image_size, channels=3)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise anything, SyntaxError included; each failure is reported
                unreadable.append((entry.name, failure_reason(error)))
            else:
                file.write(pixels.tobytes())
                count += 1
        file.seek(0)
        file.write(array_header((count, 3, task.image_size, task.image_size)))
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    shard = Shard(shard_name(task.index), count, sha256, tuple(unreadable))
    write_json(task.folder / shard_name(task.index, ".json"), asdict(shard))
    return shard


def finished_shards(folder: Path) -> dict[int, Shard]:
    """Shards by number, from the records that earlier runs wrote; one that is damaged is as good as none."""
    shards = {}
    for path in folder.glob("images-*.json"):
        with suppress(OSError, KeyError, TypeError, ValueError):
            shards[int(path.stem.split("-")[1])] = shard_from(read_json(path))
    return shards


def remove_records(folder: Path) -> None:
    """Remove the records of single shards, once the manifest holds them."""
    for path in folder.glob("images-*.json"):
        path.unlink()


def start_worker() -> None:
    """Ready a worker process: quiet, deaf to Ctrl-C, and ending with its parent, even one that is killed."""
    warnings.simplefilter("ignore")  # Pillow warns of odd metadata in many photographs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def array_header(shape: tuple[int, ...]) -> bytes:
    """The .npy header of an array of uint8; as long for any number of images."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    header = buffer.getvalue()
    if len(header) != HEADER_BYTES:
        raise RuntimeError(f"an .npy header must take {HEADER_BYTES} bytes, got {len(header)} from NumPy")
    return header
