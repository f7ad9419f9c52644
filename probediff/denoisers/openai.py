"""Read the checkpoints that OpenAI published with improved-diffusion and guided-diffusion."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probediff.denoisers.eps_model import EpsModel
from probediff.denoisers.unet import UNet
from probediff.schedule import NoiseSchedule

_UPSAMPLING = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.2)\.weight")
_GUIDED_HEAD_CHANNELS = 64


def load_openai(path: str | os.PathLike[str], schedule: NoiseSchedule, num_heads: int | None = None) -> EpsModel:
    """Load an unconditional OpenAI checkpoint; the architecture is read off the tensors.

    What the tensors do not say is taken from the published commands. Heads: guided-diffusion networks (the ones that
    resample inside residual blocks) have 64 channels a head, improved-diffusion ones 4 heads, or 1 where they lack
    scale-shift norm (the LSUN ones); rows of the attention weights are ordered (head, q k v); dropout is 0.
    `UNet.image_size` is inferred from the levels that have attention, whose lowest published resolution is 8 pixels, or
    16 where only one level has it; the forward pass does not depend on it.

    Args:
        path: `.pt` file (read without unpickling code) or `.safetensors` file with the state dict.
        schedule: Schedule the network was trained with; its length is T. Timesteps are scaled to 0..1000.
        num_heads: Number of attention heads, for networks other than the published ones.

    Returns:
        The network in float32 on the CPU, in eval mode.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it holds no state dict, a class-conditional network, or another architecture (named).
    """
    state = _read_state_dict(Path(path))
    if "label_emb.weight" in state:
        raise ValueError(
            f"{path} must be an unconditional network, got a class-conditional one ({len(state['label_emb.weight'])} "
            "classes in label_emb.weight): use a checkpoint trained without classes"
        )
    try:
        # On the meta device nothing is initialised, so the global random state stays as it is.
        with torch.device("meta"):
            network = UNet(**_infer_arguments(state, num_heads))
    except ValueError as error:
        raise ValueError(f"{path} must be a network of improved-diffusion or guided-diffusion: {error}") from error
    _check_tensors(path, state, network.state_dict())
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return EpsModel(network, len(schedule)).eval()


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"path must be a .pt or .safetensors file, got {path}: no such file")
    try:
        content = _load(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} must hold a state dict, got a file that cannot be read safely: "
            f"save it again with torch.save(model.state_dict(), path) ({error})"
        ) from error
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} must hold a state dict, got {type(content).__name__} of length "
            f"{len(content) if hasattr(content, '__len__') else 0}: save model.state_dict()"
        )
    foreign = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise ValueError(
            f"{path} must hold a state dict of tensors, got {type(content[foreign[0]]).__name__} in {foreign[0]!r}: "
            "save model.state_dict() alone, without optimiser or settings"
        )
    return content


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _infer_arguments(state: dict[str, Tensor], num_heads: int | None) -> dict[str, Any]:
    """Return the arguments of UNet that give these tensors."""
    channels = _shape(state, "time_embed.0.weight")[1]
    num_stages = max(1, len({name.split(".")[1] for name in state if name.startswith("output_blocks.")}))
    upsampling = {int(match[1]): match[2] for match in map(_UPSAMPLING.fullmatch, state) if match}
    # The upward half ends each level but the last with an upsampling, after num_res_blocks + 1 stages.
    stages_a_level = min(upsampling, default=num_stages - 1) + 1
    first_stages = [f"output_blocks.{index}" for index in reversed(range(0, num_stages, stages_a_level))]
    widths = [_shape(state, f"{stage}.0.out_layers.3.weight")[0] for stage in first_stages]
    rates = [2**level for level, stage in enumerate(first_stages) if f"{stage}.1.qkv.weight" in state]
    if any(width % channels for width in widths):
        raise ValueError(f"the widths of its levels must be multiples of {channels} channels, got {widths}")
    use_scale_shift_norm = (
        _shape(state, "middle_block.0.emb_layers.1.weight")[0]
        == 2 * _shape(state, "middle_block.0.out_layers.3.weight")[0]
    )
    resblock_updown = "in_layers.2" in upsampling.values()
    image_size = _infer_image_size(rates, num_levels=len(widths))
    return {
        "image_size": image_size,
        "in_channels": _shape(state, "input_blocks.0.0.weight")[1],
        "out_channels": _shape(state, "out.2.weight")[0],
        "channels": channels,
        "channel_mult": tuple(width // channels for width in widths),
        "num_res_blocks": stages_a_level - 1,
        "attention_resolutions": tuple(image_size // rate for rate in rates),
        "num_heads": num_heads if num_heads is not None else (4 if use_scale_shift_norm else 1),
        "num_head_channels": _GUIDED_HEAD_CHANNELS if resblock_updown and num_heads is None else None,
        "resblock_updown": resblock_updown,
        "use_scale_shift_norm": use_scale_shift_norm,
    }


def _infer_image_size(rates: list[int], num_levels: int) -> int:
    """Return the image size at which attention at these downsampling rates has its published lowest resolution."""
    lowest_resolution = 16 if len(rates) == 1 else 8
    return max(lowest_resolution * max(rates, default=1), 2 ** (num_levels - 1))


def _shape(state: dict[str, Tensor], name: str) -> torch.Size:
    if name not in state or state[name].dim() < 2:
        got = "no such tensor" if name not in state else f"shape {tuple(state[name].shape)}"
        raise ValueError(f"{name} must be a tensor of two or more dimensions, got {got}: check that the file is whole")
    return state[name].shape


def _check_tensors(path: str | os.PathLike[str], state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError that names the tensors in which the file and the inferred network differ."""
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    problems += [
        f"{name} expected {tuple(tensor.shape)} got {tuple(state[name].shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:5])
        raise ValueError(
            f"{path} must match the network inferred from it, got {len(problems)} differences: {shown}. "
            "Use an unchanged improved-diffusion or guided-diffusion checkpoint"
        )
