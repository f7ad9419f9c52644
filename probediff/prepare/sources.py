"""Where images come from: folders, the tar files of ImageNet, and the bytes of one image."""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from probediff.display.progress import progress_bar
from probediff.files import open_plain_file
from probediff.prepare.decoding import EXTENSIONS
from probediff.prepare.walking import (
    HIDDEN,
    IN_TAR_ONLY,
    OTHER_TYPE,
    REPLACED,
    SPECIAL,
    ImageFile,
    LeftOut,
    first_hidden,
    is_image,
    walk_images,
)

ACCEPTED = (
    f"a folder of images ({', '.join(EXTENSIONS)}; one folder a class, as ImageNet is unpacked), a tar file of images "
    "or of class tars (ILSVRC2012_img_train.tar), or a folder of class tars"
)


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


class _Member(NamedTuple):
    """Where the bytes of a file in a tar are."""

    num_bytes: int
    offset: int


def list_images(folder: Path, left_out: LeftOut) -> list[ImageFile]:
    """Image files of a folder and its subfolders, sorted by relative path; see `walk_images`.

    Args:
        folder: where to begin.
        left_out: hears of everything that is no image.

    Raises:
        FileNotFoundError: The folder is missing or holds no image.
        OSError: A folder cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"path must be a folder of images ({', '.join(EXTENSIONS)}), got {folder}: no folder")
    files = sorted(walk_images(folder, left_out))
    if not files:
        raise FileNotFoundError(
            f"path must hold at least one image ({', '.join(EXTENSIONS)}, any case), got {folder}: none there or in "
            f"its subfolders{_but(left_out)}; check the path or convert the images"
        )
    return files


def list_entries(source: Path, left_out: LeftOut) -> list[Entry]:
    """All images of a source, sorted by name, whatever the order of folders and tars.

    Args:
        source: a folder of images, a tar, or a folder of class tars.
        left_out: hears of everything that is no image.

    Raises:
        FileNotFoundError: ``source`` is missing or holds no image.
        ValueError: A tar file is damaged or compressed, ``source`` mixes images and tars, or is a pipe or a device.
        OSError: A folder cannot be read.
    """
    if not source.exists():
        raise FileNotFoundError(f"SOURCE must be {ACCEPTED}, got {source}: there is no such file or folder")
    listing = _folder_entries(source, left_out) if source.is_dir() else _tar_entries(source, "", left_out)
    entries = sorted(progress_bar(listing, desc=f"listing {source}", unit=" images", leave=False))
    if not entries:
        raise FileNotFoundError(
            f"SOURCE must hold at least one image, got {source}: none found{_but(left_out)}; give {ACCEPTED}"
        )
    return entries


def _but(left_out: LeftOut) -> str:
    return f" but {left_out}" if left_out.counts else ""


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
    with open_plain_file(Path(entry.archive) if entry.archive else source / entry.name) as file:
        file.seek(entry.offset)
        return file.read(entry.num_bytes)


def _folder_entries(folder: Path, left_out: LeftOut) -> Iterator[Entry]:
    tars = sorted(path for path in folder.iterdir() if _is_tar(path))
    images = (Entry(file.relative_path, file.num_bytes, "", 0) for file in walk_images(folder, left_out))
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
        left_out.discard(path.name)
        yield from _tar_entries(path, f"{path.stem}/", left_out, nested=False)


def _is_tar(path: Path) -> bool:
    # A link that leads nowhere is a class that is missing, and an error; a pipe is none, and is left out.
    is_tar = path.name.lower().endswith(".tar") and not first_hidden(path.name)
    return is_tar and (path.is_file() or not path.exists())


def _tar_entries(path: Path, prefix: str, left_out: LeftOut, nested: bool = True) -> Iterator[Entry]:
    """Images of a tar file and, if ``nested``, of the tar files in it."""
    archive = str(path)  # one string for all its images
    try:
        with open_plain_file(path) as file:
            for name, member in _members(file, 0, prefix, left_out).items():
                if is_image(name):
                    yield Entry(name, member.num_bytes, archive, member.offset)
                elif not name.lower().endswith(".tar"):
                    left_out.add(OTHER_TYPE, name)
                elif not nested:
                    raise ValueError(
                        f"SOURCE must hold class tars, got {path}, a tar of tars; give that file itself as SOURCE"
                    )
                else:
                    yield from _class_entries(file, name, member, archive, left_out)
    except tarfile.TarError as error:
        raise ValueError(
            f"SOURCE must be a whole, uncompressed tar file, got {path} ({error}); download it again or unpack it"
        ) from error


def _class_entries(file: IO[bytes], name: str, tar: _Member, archive: str, left_out: LeftOut) -> Iterator[Entry]:
    """Images of a class tar that lies within another tar."""
    for inner, member in _members(file, tar.offset, f"{PurePosixPath(name).stem}/", left_out).items():
        if member.offset + member.num_bytes > tar.offset + tar.num_bytes:
            raise tarfile.ReadError(f"{name} ends within {inner}")
        if is_image(inner):
            yield Entry(inner, member.num_bytes, archive, member.offset)
        else:
            left_out.add(OTHER_TYPE, inner)


def _members(file: IO[bytes], offset: int, prefix: str, left_out: LeftOut) -> dict[str, _Member]:
    """Plain files of the tar that begins at ``offset``, by name; of two with one name the later one, as unpacked."""
    members: dict[str, _Member] = {}
    file.seek(offset)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            # tarfile keeps every header that it has seen; a flat tar may hold a million.
            tar.members.clear()  # type: ignore[attr-defined]
            path = PurePosixPath(member.name.lstrip("/"))
            name = prefix + str(path)
            if member.isdir():
                continue
            if hidden := first_hidden(str(path)):
                left_out.add(HIDDEN, prefix + hidden)
            elif member.ischr() or member.isblk() or member.isfifo():
                left_out.add(SPECIAL, name)
            elif not member.isreg() or member.issparse() or ".." in path.parts:
                left_out.add(IN_TAR_ONLY, name)
            else:
                if name in members:
                    left_out.add(REPLACED, name)
                members[name] = _Member(member.size, member.offset_data)
        # tarfile takes a damaged header for the end; only a block of zeros is one.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")
    return members
