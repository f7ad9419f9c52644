"""Where images come from: folders, the tar files of ImageNet, and the bytes of one image."""

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from probediff.prepare.decoding import EXTENSIONS
from probediff.progress import progress_bar

ACCEPTED = (
    f"a folder of images ({', '.join(EXTENSIONS)}; one folder a class, as ImageNet is unpacked), a tar file of images "
    "or of class tars (ILSVRC2012_img_train.tar), or a folder of class tars"
)


class ImageFile(NamedTuple):
    """One image file, with what tells a changed file from an unchanged one."""

    relative_path: str
    num_bytes: int
    modified_ns: int


class Entry(NamedTuple):
    """One image of a source.

    Attributes:
        name: Path relative to the source; the same for an image in n01440764.tar and in the folder n01440764.
        num_bytes: Size of the file.
        archive: The tar file that holds the image; empty for a file of its own, to keep a million entries small.
        offset: Where the image begins in ``archive``.
    """

    name: str
    num_bytes: int
    archive: str
    offset: int


def list_images(folder: Path) -> list[ImageFile]:
    """Image files of a folder and its subfolders, sorted by relative path.

    Raises:
        FileNotFoundError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"path must be a folder of images ({', '.join(EXTENSIONS)}), got {folder}: no folder")
    files = sorted(_walk(folder))
    if not files:
        raise FileNotFoundError(
            f"path must hold at least one image ({', '.join(EXTENSIONS)}, any case), got {folder}: none there or in "
            "its subfolders; check the path or convert the images"
        )
    return files


def list_entries(source: Path) -> list[Entry]:
    """All images of a source, sorted by name, whatever the order of folders and tars.

    Raises:
        FileNotFoundError: ``source`` is missing or holds no image.
        ValueError: A tar file is damaged or compressed, or ``source`` mixes images and tars.
        OSError: A folder cannot be listed.
    """
    if not source.exists():
        raise FileNotFoundError(f"SOURCE must be {ACCEPTED}, got {source}: there is no such file or folder")
    listing = _folder_entries(source) if source.is_dir() else _tar_entries(source, "")
    entries = sorted(progress_bar(listing, desc=f"listing {source}", unit=" images", leave=False))
    if not entries:
        raise FileNotFoundError(f"SOURCE must hold at least one image, got {source}: none found; give {ACCEPTED}")
    return entries


def entries_digest(entries: Iterable[Entry]) -> str:
    """SHA-256 of names and sizes: tells one source from another without reading the images."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.num_bytes}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_entry(source: Path, entry: Entry) -> bytes:
    """The bytes of one image file.

    Raises:
        OSError: It cannot be read.
    """
    with open(entry.archive or source / entry.name, "rb") as file:
        file.seek(entry.offset)
        return file.read(entry.num_bytes)


def _folder_entries(folder: Path) -> Iterator[Entry]:
    tars = sorted(path for path in folder.iterdir() if path.name.lower().endswith(".tar"))
    images = (Entry(file.relative_path, file.num_bytes, "", 0) for file in _walk(folder, _raise))
    first = next(images, None)
    if first is not None and tars:
        raise ValueError(
            f"SOURCE must hold either images or class tars, got both in {folder}: {first.name} and {tars[0].name}; "
            "move one kind elsewhere, or name a tar file itself"
        )
    if first is not None:
        yield first
        yield from images
    for path in tars:
        yield from _tar_entries(path, f"{path.stem}/", nested=False)


def _walk(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[ImageFile]:
    """Image files of a folder and its subfolders, links followed; ``onerror`` hears of folders that cannot be read."""
    for parent, _, names in os.walk(folder, followlinks=True, onerror=onerror):
        for path in (Path(parent, name) for name in names if _is_image(name)):
            # A dangling link is one more file that cannot be read, and is reported as such.
            num_bytes, modified_ns = 0, 0
            if path.exists():
                status = path.stat()
                num_bytes, modified_ns = status.st_size, status.st_mtime_ns
            yield ImageFile(path.relative_to(folder).as_posix(), num_bytes, modified_ns)


def _tar_entries(path: Path, prefix: str, nested: bool = True) -> Iterator[Entry]:
    """Images of a tar file and, if ``nested``, of the tar files in it."""
    archive = str(path)  # one string for all its images
    try:
        with open(path, "rb") as file:
            for member, offset in _members(file, 0):
                if _is_image(member.name):
                    yield Entry(prefix + str(PurePosixPath(member.name)), member.size, archive, offset)
                elif member.name.lower().endswith(".tar"):
                    if not nested:
                        raise ValueError(
                            f"SOURCE must hold class tars, got {path}, a tar of tars; give that file itself as SOURCE"
                        )
                    yield from _class_entries(file, member, offset, archive)
    except tarfile.TarError as error:
        raise ValueError(
            f"SOURCE must be a whole, uncompressed tar file, got {path} ({error}); download it again or unpack it"
        ) from error


def _class_entries(file: IO[bytes], member: tarfile.TarInfo, offset: int, archive: str) -> Iterator[Entry]:
    """Images of a class tar that lies within another tar."""
    label = PurePosixPath(member.name).stem
    for inner, inner_offset in _members(file, offset):
        if inner_offset + inner.size > offset + member.size:
            raise tarfile.ReadError(f"{member.name} ends within {inner.name}")
        if _is_image(inner.name):
            yield Entry(f"{label}/{PurePosixPath(inner.name)}", inner.size, archive, inner_offset)


def _members(file: IO[bytes], offset: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Regular files of the tar that begins at ``offset``, with the positions of their bytes in ``file``."""
    file.seek(offset)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            # tarfile keeps every header that it has seen; a flat tar may hold a million.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.isfile():
                yield member, member.offset_data
        # tarfile takes a damaged header for the end; only a block of zeros is one.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")


def _is_image(name: str) -> bool:
    # macOS writes a "._" companion of every file into tars; it is no image.
    return name.lower().endswith(EXTENSIONS) and not PurePosixPath(name).name.startswith("._")


def _raise(error: OSError) -> None:
    raise error
