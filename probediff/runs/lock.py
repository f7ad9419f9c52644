"""Two locks of a folder of results, which the kernel takes away when their process ends, however it ends.

``hold`` is ownership: whoever trains or probes into a folder holds it as long as it works. ``lock_writes`` is for the
moment of a write, by whoever changes files there.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from probediff.files import read_json
from probediff.runs.folder import LOCK, WRITING

#: How long a new process waits for what is left of an earlier one: its data workers notice its death late.
WAIT_SEC = 10.0
#: `holder` takes the lock for a moment, to see whether it is free.
_MOMENT_SEC = 0.2
#: How long a write waits for that of another process, which may be an event on a slow disk.
_WRITING_SEC = 120.0

_held: dict[Path, IO[str]] = {}


def hold(folder: Path, wait_sec: float = _MOMENT_SEC) -> bool:
    """Lock ``folder``, which is made if need be, until ``release`` or the end of this process.

    Where the file system has no locks, the folder counts as ours.

    Returns:
        Whether it is ours; not when another process holds it after ``wait_sec``.
    """
    key = folder.resolve()
    if key in _held:
        return True
    file = _open_locked(folder / LOCK, wait_sec)
    if file is None:
        return False
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    with suppress(OSError):  # a full disk: then nobody can read who it is
        file.truncate(0)
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "gpu": gpu}, file)
        file.flush()
    _held[key] = file
    return True


def own(folder: Path, option: str, wait_sec: float = _MOMENT_SEC) -> None:
    """``hold`` or raise ValueError, with the process that is at work there; ``option`` is the one that names it."""
    try:
        is_ours = hold(folder, wait_sec)
    except OSError as error:
        raise ValueError(f"{option} must be a folder that can be written to, got {folder}: {error}") from error
    if not is_ours:
        who = (holder(folder) or {}).get("process", "unknown")
        raise ValueError(f"process {who} is at work in {folder}; wait for its end, or give another {option}")


def release(folder: Path) -> None:
    """Give ``folder`` back, also on behalf of processes that were forked meanwhile."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        with suppress(OSError):
            file.close()


@contextmanager
def claim(folder: Path, option: str, wait_sec: float = _MOMENT_SEC) -> Iterator[None]:
    """``own`` a folder during a block; where that leaves nothing there, the folders and locks that it made go again.

    So a start that is refused, in any place of the block, leaves nothing. In a block of the same process that owns the
    folder already, it changes nothing.

    Raises:
        ValueError: another process is at work there, or the folder cannot be written to.
    """
    if folder.resolve() in _held:
        yield
        return
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    before = _names_in(folder)
    own(folder, option, wait_sec)
    try:
        yield
    finally:
        with suppress(OSError):
            _remove_locks(folder, before)
            for path in new:
                path.rmdir()
        release(folder)


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:  # there is none, or none any more
        return set()


def _remove_locks(folder: Path, before: set[str]) -> None:
    """Remove new locks of a claimed folder, and old ones of an empty one, if nothing else in it is new."""
    names = _names_in(folder)
    is_empty = names <= {LOCK, WRITING}
    new = names if is_empty else names - before
    if not new <= {LOCK, WRITING}:
        return
    # Who waits for one of them opens it anew.
    if WRITING in new:
        with lock_writes(folder):
            (folder / WRITING).unlink()
    if LOCK in new:
        (folder / LOCK).unlink()


@contextmanager
def lock_writes(folder: Path) -> Iterator[None]:
    """Change files of ``folder``, which is made if need be, while no other process does.

    Raises:
        OSError: another process has not finished its write for two minutes.
    """
    file = _open_locked(folder / WRITING, _WRITING_SEC)
    if file is None:
        raise OSError(f"another process has been writing to {folder} for {_WRITING_SEC:g} s; end it, or wait for it")
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _open_locked(path: Path, wait_sec: float) -> IO[str] | None:
    """The file, locked; None where another process holds it after ``wait_sec``."""
    deadline = time.monotonic() + wait_sec
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # that start removes its folder too, perhaps in between
            if time.monotonic() > deadline:
                raise
            continue
        if not _try_lock(file, deadline):
            file.close()
            return None
        # A start that was refused removes the file that it made, perhaps after we have opened it.
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _try_lock(file: IO[str], deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError:
            return True  # A file system without locks.


def holder(folder: Path) -> dict[str, Any] | None:
    """``process``, ``host`` and ``gpu`` of who is at work in ``folder``, as far as known; None when nobody is."""
    if not is_held(folder):
        return None
    try:
        content = read_json(folder / LOCK)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_held(folder: Path) -> bool | None:
    """Whether a process is at work in ``folder``; None where there is no telling, for lack of a lock."""
    path = folder / LOCK
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False
