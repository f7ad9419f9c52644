"""Weights of feature networks: from the hub, from its cache, from a local file; never unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from probediff.exceptions import FeatureLoadError

HUB_PROBE_TIMEOUT_SEC = 5.0
MISMATCHES_SHOWN = 3


def hub_file(repository: str | None, file: str | None, usual_files: tuple[str, ...]) -> str:
    """Path of ``file`` (None or "": the first usual one there is) from the hub's cache or else from the hub."""
    from huggingface_hub import constants, get_session, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    if not repository:
        raise FeatureLoadError("no weights for it are on the hub")
    file_names = (file,) if file else usual_files
    cached = (try_to_load_from_cache(repository, name) for name in file_names)
    if path := next((entry for entry in cached if isinstance(entry, str)), None):
        return path
    if not constants.HF_HUB_OFFLINE:
        # The hub's client would try again for most of a minute before it says that there is no network.
        get_session().head(constants.ENDPOINT, timeout=HUB_PROBE_TIMEOUT_SEC)
    for name in file_names:
        try:
            return hf_hub_download(repository, name)
        except EntryNotFoundError:
            continue
    raise FeatureLoadError(f"{repository} on the hub holds none of {', '.join(file_names)}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """State dict of a .safetensors file or of one that ``torch.save`` wrote; never runs code from the file.

    Raises:
        FeatureLoadError: The file holds anything but a dict of tensors, at top level or under ``state_dict``.
        OSError: The file cannot be read.
    """
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise FeatureLoadError(f"{path} must hold a state dict of tensors; save one with torch.save(net.state_dict())")
    return weights


def load_strictly(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights that must fit tensor for tensor.

    Raises:
        FeatureLoadError: Tensors are missing, unexpected or of another shape; the first few are named.
    """
    expected = network.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in weights]
    faults += [f"{key} is unexpected" for key in weights if key not in expected]
    faults += [
        f"{key} must have shape {tuple(expected[key].shape)}, got {tuple(value.shape)}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if faults:
        more = f"; and {len(faults) - MISMATCHES_SHOWN} more" if len(faults) > MISMATCHES_SHOWN else ""
        raise FeatureLoadError(f"the weights do not fit the network: {'; '.join(faults[:MISMATCHES_SHOWN])}{more}")
    network.load_state_dict(weights)
