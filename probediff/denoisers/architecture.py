"""What the tensors of a U-Net say about the network that they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_UPSAMPLING = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.2)\.weight")


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a network determine.

    Attributes:
        channels: of the first level.
        channel_mult: channels of each level as a multiple of them.
        num_res_blocks: residual blocks a level.
        attention_rates: downsampling rates of the levels that have attention; the middle block always has it.
        use_scale_shift_norm: whether the timestep scales and shifts, or is added.
        resblock_updown: whether the resolution changes inside residual blocks, as in guided-diffusion.
    """

    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_rates: tuple[int, ...]
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False

    @property
    def size_divisor(self) -> int:
        """What sizes of images must divide by."""
        return int(2 ** (len(self.channel_mult) - 1))

    def __str__(self) -> str:
        """For people."""
        rates = ", ".join(f"1/{rate}" for rate in self.attention_rates) or "no level's"
        mult = ",".join(map(str, self.channel_mult))
        return (
            f"{self.channels} channels times {mult}, {self.num_res_blocks} residual blocks, attention at {rates} size"
        )


def describe_misfit(there: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Which keys of a configuration make a network of other tensors than there are, and what they must be for these.

    Args:
        there: state dict of a `UNet`.
        wanted: that of the network of the configuration; its tensors may be on the meta device.

    Returns:
        Such as ``network.channels must be 8 for these tensors, got 16``; empty where the keys do not explain it.
    """
    try:
        right, ours = _network_keys(there), _network_keys(wanted)
    except (ValueError, ArithmeticError, AttributeError):  # tensors of something else
        return ""
    differing = [key for key in ours if right[key] != ours[key]]
    return "; ".join(f"{key} must be {right[key]} for these tensors, got {ours[key]}" for key in differing)


def _network_keys(state: Mapping[str, Tensor]) -> dict[str, Any]:
    architecture = infer_architecture(state)
    levels = " and ".join(f"image_size / {rate}" for rate in architecture.attention_rates)
    return {
        "network.channels": architecture.channels,
        "network.channel_mult": list(architecture.channel_mult),
        "network.num_res_blocks": architecture.num_res_blocks,
        "network.attention_resolutions": levels or "[]",
        "network.use_scale_shift_norm": architecture.use_scale_shift_norm,
        "network.resblock_updown": architecture.resblock_updown,
        "network.in_channels (channels of data)": tensor_shape(state, "input_blocks.0.0.weight")[1],
        "network.out_channels (twice the channels of data)": tensor_shape(state, "out.2.weight")[0],
    }


def infer_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture that gives these tensors of a `UNet`; raises ValueError where there is none."""
    channels = tensor_shape(state, "time_embed.0.weight")[1]
    num_stages = max(1, len({name.split(".")[1] for name in state if name.startswith("output_blocks.")}))
    upsampling = {int(match[1]): match[2] for match in map(_UPSAMPLING.fullmatch, state) if match}
    # The upward half ends each level but the last with an upsampling, after num_res_blocks + 1 stages.
    stages_a_level = min(upsampling, default=num_stages - 1) + 1
    first_stages = [f"output_blocks.{index}" for index in reversed(range(0, num_stages, stages_a_level))]
    widths = [tensor_shape(state, f"{stage}.0.out_layers.3.weight")[0] for stage in first_stages]
    if any(width % channels for width in widths):
        raise ValueError(f"the widths of its levels must be multiples of {channels} channels, got {widths}")
    use_scale_shift_norm = (
        tensor_shape(state, "middle_block.0.emb_layers.1.weight")[0]
        == 2 * tensor_shape(state, "middle_block.0.out_layers.3.weight")[0]
    )
    return Architecture(
        channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=stages_a_level - 1,
        attention_rates=tuple(2**level for level, s in enumerate(first_stages) if f"{s}.1.qkv.weight" in state),
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown="in_layers.2" in upsampling.values(),
    )


def tensor_shape(state: Mapping[str, Tensor], name: str) -> torch.Size:
    """Shape of a weight; raises ValueError where there is none."""
    if name not in state or state[name].dim() < 2:
        got = "no such tensor" if name not in state else f"shape {tuple(state[name].shape)}"
        raise ValueError(f"{name} must be a tensor of two or more dimensions, got {got}: check that the file is whole")
    return state[name].shape
