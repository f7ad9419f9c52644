"""Checksums in files, and digests that tell contents apart."""

from __future__ import annotations

import hashlib
import json
import mmap
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from probediff.files.plain import check_plain_file, open_plain_file

if TYPE_CHECKING:
    from torch import Tensor

#: Key of the metadata of a safetensors file.
CHECKSUM = "sha256"
#: What an unpickler raises on bytes that are none of its own.
UNREADABLE = (
    *(ValueError, EOFError, LookupError, TypeError, AttributeError, RecursionError, struct.error),
    pickle.UnpicklingError,
)


def verify_tensors(path: Path) -> None:
    """Compare a safetensors file with the checksum that `save_tensors` put into it; files without one pass.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    check_plain_file(path)
    try:
        with open_plain_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            actual, stored = checksum(content)
    except (OSError, *UNREADABLE) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if stored not in (None, actual):
        raise ValueError(f"{path} is damaged: its content does not have the checksum that was written with it")


def checksum(content: bytes | mmap.mmap) -> tuple[str, str | None]:
    """SHA-256 of the content of a safetensors file without the checksum in it, and that checksum."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    stored = header.get("__metadata__", {}).pop(CHECKSUM, None)
    if not header.get("__metadata__"):
        header.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    with memoryview(content) as whole, whole[8 + size :] as data:
        digest.update(data)
    return digest.hexdigest(), stored


def verify_zip(path: Path) -> None:
    """Raise ValueError where a part of a zip file, which is what torch writes, has not its checksum."""
    with open_plain_file(path) as start:
        if start.read(2) != b"PK":
            return  # the format before torch 1.6, which has no checksums; or no checkpoint, as reading it will tell
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts must not be larger than the file, got larger ones: it is damaged")
        damaged = file.testzip()
    if damaged is not None:
        raise ValueError(f"it is damaged: the checksum of {damaged} in it is wrong")


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over names, types, shapes and values: what tells contents apart."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
