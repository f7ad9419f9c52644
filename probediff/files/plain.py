"""Files that a user names: opened only where they are plain ones, because reading a pipe or a device may never end."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
_ZIP = b"PK\x03\x04"


def check_plain_file(path: Path) -> None:
    """Raise unless there is a file that can be read to its end; links are followed.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is a folder, a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "device")
        raise ValueError(f"{path} must be a plain file, got a {kind}; name a file")


def open_plain_file(path: Path) -> BufferedReader:
    """Open a file to read its bytes; raises as `check_plain_file`, and OSError where it cannot be read."""
    check_plain_file(path)
    # What takes its place in between cannot keep us waiting either: without a writer a pipe ends at once.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def map_array(path: Path) -> npt.NDArray[Any]:
    """The array of an .npy file, mapped into memory to be read; nothing in it is unpickled.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no .npy file of numbers, or is damaged; the message says what to do.
    """
    import numpy as np

    check_plain_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(_ZIP))
        if start == _ZIP:
            raise ValueError(
                "it is an .npz, an archive of arrays: take one of them out with "
                f"numpy.save('images.npy', numpy.load({path.name!r})['NAME'])"
            )
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # of a damaged header NumPy raises what its parser and its arithmetic do
        raise ValueError(f"{path} must be an .npy file of numbers, got another ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    if "Python objects" in text:
        return "it holds Python objects, which may run code and are not read: save it again with a dtype of numbers"
    if "greater than file size" in text:
        return "it is cut off: copy or save it again"
    return text.split(" (")[0] or type(error).__name__
