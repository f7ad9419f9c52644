"""Files of tensors and of weights: written with checksums, read without running code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probediff.files.checksums import CHECKSUM, checksum, verify_tensors, verify_zip
from probediff.files.whole import whole_file

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Names under which training code keeps a state dict, averaged weights before the raw ones beside them.
WRAPPERS = ("state_dict", "ema", "teacher", "model")
#: What DistributedDataParallel, torch.compile and DINO put before the names of a network's tensors.
PREFIXES = ("module.", "_orig_mod.", "backbone.")
_DIFFERENCES_SHOWN = 5
_ADVICE = re.compile(r"weights.only|safe.globals|trust|allow_pickle|unsafe|torch\.save|mmap", re.IGNORECASE)


def save_tensors(target: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, words about them and a checksum as safetensors at once; see `whole_file`."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    words = dict(metadata or {})
    with whole_file(target) as file:
        file.write(save(plain, words | {CHECKSUM: checksum(save(plain, words))[0]}))


def load_whole(path: Path, metadata: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """All tensors of a file that `save_tensors` wrote.

    Args:
        path: the file.
        metadata: words that it must have.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or has other words.
    """
    from safetensors import SafetensorError, safe_open

    verify_tensors(path)
    try:
        with safe_open(path, "pt") as file:
            words = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    for name, word in (metadata or {}).items():
        if words.get(name) != word:
            raise ValueError(f"{path} must be of {name} {word}, got {words.get(name, 'none')}: it is another file")
    return tensors


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
        verify_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to read files of others
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged files raise classes of zipfile, zlib, pickle, torch and safetensors
        reason = (str(error).splitlines() or ["it is empty"])[0]
        # torch recommends what would run the code of a stranger's file.
        if _ADVICE.search(str(error)):
            reason = "it is damaged, or holds Python objects, which may run code and are not read"
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {reason})") from None


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
    check_dense(path, content)
    while prefix := next((start for start in PREFIXES if any(name.startswith(start) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    return content


def check_dense(path: Path, tensors: Mapping[Any, Any]) -> None:
    """Make sure that what a stranger's file holds are tensors of numbers that the file really has.

    Raises:
        ValueError: something else is among them, such as a sparse tensor, or one that repeats a few numbers endlessly.
    """
    import torch

    for name, tensor in tensors.items():
        is_dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not (isinstance(name, str) and is_dense) or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"{path} must hold dense tensors of real numbers by name, got something else in {name!r}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path} must hold whole tensors, got {name!r}, which repeats itself: it is damaged")


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
