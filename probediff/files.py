"""Files that appear only when they are whole, and errors of a folder that cannot be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PARTIAL = ".partial"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(target: Path) -> Iterator[BufferedRandom]:
    """A file to write and read that takes its name only when the block ends well, and is on the disk by then."""
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        with open(partial, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(target: Path, content: dict[str, Any]) -> None:
    """Write a JSON file at once; see `whole_file`."""
    with whole_file(target) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half-written."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the lock ends with the process, however it ends.

    Raises:
        ValueError: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"OUT is being written by another process, got {folder}; wait for it to end") from None
        except OSError:
            pass  # some network file systems lock no folders; the content is the same whoever writes it
        yield
    finally:
        os.close(descriptor)


def writing_error(folder: Path, error: OSError) -> OSError:
    """``error`` of writing to ``folder``, told with its cure."""
    reason = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        return OSError(
            f"OUT: no space left to write {folder} ({reason}); free some or raise the quota, then start the same "
            "command again: it goes on from the parts that are done"
        )
    return OSError(f"OUT must be a folder that can be written, got {folder} ({reason}); choose another")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system syncs folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors; the file appears whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
