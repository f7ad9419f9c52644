"""One way through a folder of images: each folder once, and what is left out counted."""

import errno
import heapq
import os
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from probediff.prepare.decoding import EXTENSIONS

HIDDEN = "hidden"
SPECIAL = "pipes, sockets or devices"
AGAIN = "links to folders that count already"
OTHER_TYPE = "of other types"
#: Links of a tar and names that lead out of it: unpacked, they might count.
IN_TAR_ONLY = "links, odd names or gaps in a tar"
REPLACED = "replaced by a later file of that name in a tar"
_FOLDERS_OF_JUNK = ("__MACOSX",)


class ImageFile(NamedTuple):
    """One image file, with what tells a changed file from an unchanged one."""

    relative_path: str
    num_bytes: int
    modified_ns: int


class LeftOut:
    """What a source holds beside its images: the paths relative to it, by reason."""

    def __init__(self) -> None:
        self._paths: dict[str, set[str]] = defaultdict(set)

    def add(self, reason: str, path: str) -> None:
        """Leave a path out; a second time changes nothing."""
        self._paths[reason].add(path)

    def discard(self, path: str) -> None:
        """Count a path after all, whatever the reason was."""
        for paths in self._paths.values():
            paths.discard(path)

    @property
    def counts(self) -> dict[str, int]:
        """Number of paths by reason."""
        return {reason: len(paths) for reason, paths in sorted(self._paths.items()) if paths}

    def tell(self, source: Path) -> None:
        """Warn with one line of what was left out, if anything was."""
        if self.counts:
            warnings.warn(f"left out of {source}: {self}", stacklevel=3)

    def __str__(self) -> str:
        """One line with an example of each reason; empty where nothing was left out."""
        parts = (f"{len(paths)} {reason} ({min(paths)!r})" for reason, paths in sorted(self._paths.items()) if paths)
        return "; ".join(parts)


def walk_images(folder: Path, left_out: LeftOut) -> Iterator[ImageFile]:
    """Image files of a folder and its subfolders, in no order.

    A link to a file is an image of its own name. A link to a folder is followed unless the folder is there already:
    each folder counts once, under the path with the fewest links, then the fewest folders, then the first one
    alphabetically, whatever the order in which the disk lists them. The folders above ``folder`` do not count.

    Args:
        folder: where to begin.
        left_out: hears of everything else: hidden files and folders (``.x``, ``__MACOSX``), other types of files,
            pipes, and links that lead nowhere new.

    Raises:
        OSError: A folder cannot be read.
    """
    start = folder.resolve()
    visited = {_identity(parent.stat()) for parent in start.parents}
    waiting = [(0, 0, "")]
    while waiting:
        num_links, depth, path = heapq.heappop(waiting)
        place = folder / path
        try:
            identity = _identity(place.stat())
            if identity in visited:
                left_out.add(AGAIN, path)
                continue
            visited.add(identity)
            with os.scandir(place) as entries:
                for entry in entries:
                    relative = f"{path}/{entry.name}" if path else entry.name
                    if first_hidden(entry.name):
                        left_out.add(HIDDEN, relative)
                        continue
                    status = _status(entry)
                    if status is not None and stat.S_ISDIR(status.st_mode):
                        heapq.heappush(waiting, (num_links + entry.is_symlink(), depth + 1, relative))
                    elif (image := _image(relative, status, left_out)) is not None:
                        yield image
        except OSError as error:
            raise OSError(
                f"all folders of images must be readable, got {error.filename or place} ({error.strerror}); change its "
                "permissions, or move it elsewhere"
            ) from error


def is_image(name: str) -> bool:
    """Whether a name is that of an image."""
    return name.lower().endswith(EXTENSIONS)


def first_hidden(path: str) -> str | None:
    """The path up to its first part that is hidden, or junk of an archiver; None where there is no such part."""
    parts = PurePosixPath(path).parts
    for number, part in enumerate(parts, 1):
        if part in _FOLDERS_OF_JUNK or (part.startswith(".") and part != ".."):
            return "/".join(parts[:number])
    return None


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """That of what an entry leads to; None for a link that leads nowhere."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise


def _image(path: str, status: os.stat_result | None, left_out: LeftOut) -> ImageFile | None:
    if status is not None and not stat.S_ISREG(status.st_mode):
        left_out.add(SPECIAL, path)
    elif not is_image(path):
        left_out.add(OTHER_TYPE, path)
    elif status is None:
        return ImageFile(path, 0, 0)  # one more file that cannot be read, and is told as such
    else:
        return ImageFile(path, status.st_size, status.st_mtime_ns)
    return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
