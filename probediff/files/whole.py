"""Files that appear only when they are whole, and errors of a folder that cannot be written."""

import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
#: Errors of a disk that is full, of a quota, and of a limit on the size of files.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(target: Path, sync: bool = True) -> Iterator[BufferedRandom]:
    """A file to write and read that takes its name only when the block ends well.

    Args:
        target: its name.
        sync: whether it is on the disk by then; a file that can be made again need not wait for that.

    Yields:
        The open file.
    """
    # Processes of several machines, with one number, may write to one folder.
    partial = target.with_name(f".{target.name}.{os.urandom(8).hex()}.{os.getpid()}{PARTIAL}")
    try:
        with open(partial, "w+b") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(target)
        if sync:
            _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(target: Path, content: Any) -> None:
    """Write a JSON file at once; see `whole_file` and `to_json`."""
    with whole_file(target) as file:
        file.write((to_json(content, indent=1) + "\n").encode())


def to_json(content: Any, indent: int | None = None) -> str:
    """JSON that every program reads: infinities and NaN, which it does not have, are null."""
    return json.dumps(_without_infinities(content), indent=indent, allow_nan=False)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half-written."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
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


@contextmanager
def explain_disk_errors(folder: Path, option: str) -> Iterator[None]:
    """Tell errors of the file system in a block that does nothing but write to ``folder`` with their cure.

    Args:
        folder: where the block writes.
        option: what names it on the command line.

    Raises:
        OSError: There is no space left, or ``folder`` cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # it has its words already
            raise
        if error.errno in NO_SPACE:
            raise OSError(
                f"{option}: no space left to write {folder} ({error.strerror}); free some or raise the quota, then "
                "start the same command again"
            ) from error
        raise OSError(
            f"{option} must be a folder that can be written to, got {folder} ({error.strerror}); choose another"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system syncs folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
