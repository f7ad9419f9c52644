"""Files that appear only when they are whole, files of weights, and errors of a folder that cannot be written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTIAL = ".partial"
#: Key of the metadata of a safetensors file.
_CHECKSUM = "sha256"
#: Names under which training code keeps a state dict, averaged weights before the raw ones beside them.
WRAPPERS = ("state_dict", "ema", "teacher", "model")
#: What DistributedDataParallel, torch.compile and DINO put before the names of a network's tensors.
PREFIXES = ("module.", "_orig_mod.", "backbone.")
_DIFFERENCES_SHOWN = 5
#: What an unpickler raises on bytes that are none of its own.
_UNREADABLE = (ValueError, EOFError, LookupError, TypeError, AttributeError, struct.error, pickle.UnpicklingError)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Tell errors of the file system in a block that writes to ``folder`` with their cure.

    Raises:
        OSError: There is no space left, or ``folder`` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # it has its words already
            raise
        if error.errno in _NO_SPACE:
            raise OSError(
                f"OUT: no space left to write {folder} ({error.strerror}); free some or raise the quota, then start "
                "the same command again: it goes on from the parts that are done"
            ) from error
        raise OSError(
            f"OUT must be a folder that can be written, got {folder} ({error.strerror}); choose another"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system syncs folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(target: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, words about them and a checksum as safetensors at once; see `whole_file`."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    words = dict(metadata or {})
    with whole_file(target) as file:
        file.write(save(plain, words | {_CHECKSUM: _checksum(save(plain, words))[0]}))


def verify_tensors(path: Path) -> None:
    """Compare a safetensors file with the checksum that `save_tensors` put into it; files without one pass.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            actual, stored = _checksum(content)
    except FileNotFoundError:
        raise
    except (OSError, *_UNREADABLE) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if stored not in (None, actual):
        raise ValueError(f"{path} is damaged: its content does not have the checksum that was written with it")


def _checksum(content: bytes | mmap.mmap) -> tuple[str, str | None]:
    """SHA-256 of the content of a safetensors file without the checksum in it, and that checksum."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    stored = header.get("__metadata__", {}).pop(_CHECKSUM, None)
    if not header.get("__metadata__"):
        header.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    with memoryview(content) as whole, whole[8 + size :] as data:
        digest.update(data)
    return digest.hexdigest(), stored


def load_whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a file that `save_tensors` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify_tensors(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


def digest_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over names, types, shapes and values: what tells contents apart."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def load_tensors(
    path: Path, names: Sequence[str], words: Sequence[str], requirement: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save_tensors` wrote.

    Args:
        path: the file.
        names: of the tensors to read.
        words: keys of the metadata to read.
        requirement: what the file must be or hold, for the message.

    Raises:
        ValueError: It is damaged or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        verify_tensors(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in names}, {word: metadata[word] for word in words}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must {requirement}, got {error}; make it anew") from error


def read_checkpoint(path: Path, mmap: bool = False) -> Any:
    """Content of a file that ``torch.save`` or safetensors wrote; never runs code from it.

    The checksums of a file are compared (torch itself reads over them), also of one that is left on the disk.

    Args:
        path: the file; the suffix .safetensors tells the two apart.
        mmap: leave the tensors on the disk until they are used.

    Raises:
        ValueError: It cannot be read, is damaged, or holds more than tensors and plain types.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            verify_tensors(path)
            return load_file(path)
        _verify_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged files raise classes of zipfile, zlib, pickle, torch and safetensors
        reason = (str(error).splitlines() or ["it is empty"])[0]
        # torch recommends what would run the code of a stranger's file.
        if "weights_only" in str(error):
            reason = "it is damaged, or holds Python objects, which may run code and are not read"
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {reason})") from None


def _verify_zip(path: Path) -> None:
    """Raise ValueError where a part of a zip file, which is what torch writes, has not its checksum."""
    if not zipfile.is_zipfile(path):
        return  # the format before torch 1.6, which has no checksums; or no checkpoint, as reading it will tell
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged is not None:
        raise ValueError(f"it is damaged: the checksum of {damaged} in it is wrong")


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a file, without the wrapper that training code put around it and the prefix before its names.

    Where some names have such a prefix, what lies beside them (the projection head of DINO) is left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or holds anything but a state dict of tensors.
    """
    from torch import Tensor

    if not path.is_file():
        raise FileNotFoundError(f"path must be a .pt or .safetensors file, got {path}: no such file")
    try:
        content = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(
            f"{path} must hold a state dict, got a file that cannot be read safely: "
            f"save it again with torch.save(model.state_dict(), path) ({error})"
        ) from None
    while isinstance(content, dict) and (names := [name for name in WRAPPERS if isinstance(content.get(name), dict)]):
        content = content[names[0]]
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} must hold a state dict, got {type(content).__name__} of length "
            f"{len(content) if hasattr(content, '__len__') else 0}: save model.state_dict()"
        )
    if foreign := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"{path} must hold a state dict of tensors, got {type(content[foreign[0]]).__name__} in {foreign[0]!r}: "
            "save model.state_dict() alone, without optimiser or settings"
        )
    while prefix := next((start for start in PREFIXES if any(name.startswith(start) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    return content


def load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], requirement: str, cure: str = "", assign: bool = False
) -> None:
    """Fill a network with weights that must fit it tensor for tensor.

    Args:
        network: what to fill.
        weights: its state dict.
        requirement: how the error begins, such as ``FILE must hold the weights of NAME``.
        cure: how it ends.
        assign: take the tensors themselves, as a network on the meta device needs it, instead of copying their values.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape; the message counts them and names the first.
    """
    try:
        network.load_state_dict(weights, strict=True, assign=assign)
    except RuntimeError as error:
        differences: list[str] = []
        for line in str(error).splitlines()[1:]:
            kind, _, names = line.strip().partition(" key(s) in state_dict: ")
            differences += [f"{kind.lower()} {name}" for name in re.findall(r'"(.+?)"', names)] or [line.strip(" \t.")]
        shown = "; ".join(differences[:_DIFFERENCES_SHOWN])
        raise ValueError(f"{requirement}, got {len(differences)} differences: {shown}. {cure}".rstrip()) from None
