"""Whose folder a run's is: a lock that the kernel takes away when its process ends, however it ends."""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from probediff.runs.folder import LOCK

#: How long a new process waits for what is left of an earlier one: its data workers notice its death late.
WAIT_SEC = 10.0
#: `holder` takes the lock for a moment, to see whether it is free.
_MOMENT_SEC = 0.2

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
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+", encoding="utf-8")
    if not _locked(file, wait_sec):
        file.close()
        return False
    file.truncate(0)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    json.dump({"process": os.getpid(), "host": socket.gethostname(), "gpu": gpu}, file)
    file.flush()
    _held[key] = file
    return True


def release(folder: Path) -> None:
    """Give ``folder`` back, also on behalf of processes that were forked meanwhile."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _locked(file: IO[str], wait_sec: float) -> bool:
    deadline = time.monotonic() + wait_sec
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
    """``process``, ``host`` and ``gpu`` of who is at work in ``folder``; None when nobody is."""
    return json.loads((folder / LOCK).read_text(encoding="utf-8") or "{}") if is_held(folder) else None


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
