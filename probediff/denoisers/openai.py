"""Read the checkpoints that OpenAI published with improved-diffusion and guided-diffusion."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probediff.denoisers.blocks import ResidualBlock
from probediff.denoisers.predictions import EpsModel
from probediff.denoisers.unet import UNet
from probediff.files import load_strictly, read_weights
from probediff.schedule import NoiseSchedule, ScheduleName

_UPSAMPLING = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.2)\.weight")
_GUIDED_HEAD_CHANNELS = 64


def load_openai(path: str | os.PathLike[str], schedule: NoiseSchedule, num_heads: int | None = None) -> EpsModel:
    """Load an unconditional OpenAI checkpoint: `load_openai_network` as an `openai_eps_model`.

    Args:
        path: `.pt` file (read without unpickling code) or `.safetensors` file with the state dict, alone or in a
            wrapper; see `probediff.files.read_weights`.
        schedule: Schedule the network was trained with; its length is T.
        num_heads: Number of attention heads, for networks other than the published ones.

    Returns:
        The network in float32 on the CPU, in eval mode.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it holds no state dict, a class-conditional network, or another architecture (named).
    """
    return openai_eps_model(load_openai_network(path, num_heads), len(schedule))


def load_openai_network(path: str | os.PathLike[str], num_heads: int | None = None) -> UNet:
    """Load the network of an unconditional OpenAI checkpoint; the architecture is read off the tensors.

    What the tensors do not say is taken from the published commands. Heads: guided-diffusion networks (the ones that
    resample inside residual blocks) have 64 channels a head, improved-diffusion ones 4 heads, or 1 where they lack
    scale-shift norm (the LSUN ones); rows of the attention weights are ordered (head, q k v); dropout is 0.
    `UNet.image_size` is inferred from the levels that have attention, whose lowest published resolution is 8 pixels, or
    16 where only one level has it; the forward pass does not depend on it. Arguments and errors as in `load_openai`.
    """
    state = read_weights(Path(path))
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
    requirement = f"{path} must match the network inferred from it"
    cure = "Use an unchanged improved-diffusion or guided-diffusion checkpoint"
    load_strictly(network, {name: tensor.float() for name, tensor in state.items()}, requirement, cure, assign=True)
    return network.eval()


def openai_eps_model(network: UNet, num_train_timesteps: int) -> EpsModel:
    """Make an `eps_model` that shows the network its timesteps on the scale it was trained with.

    That is timestep * 1000 / T in improved-diffusion and the timestep itself in guided-diffusion, the defaults of the
    two. Guided-diffusion's published networks, and improved-diffusion's LSUN ones, have T = 1000, where both agree.
    """
    return EpsModel(network, num_train_timesteps, rescale_timesteps=not _is_guided(network)).eval()


def published_process(network: UNet) -> tuple[ScheduleName, int]:
    """Schedule and T that the published commands give for a network of this architecture.

    Cosine and 4000 for improved-diffusion's CIFAR-10 and ImageNet 64x64 networks; linear and 1000 for its LSUN ones
    (no scale-shift norm) and for guided-diffusion's unconditional ones.
    """
    plain = not any(block.use_scale_shift_norm for block in _residual_blocks(network))
    return ("linear", 1000) if plain or _is_guided(network) else ("cosine", 4000)


def _is_guided(network: UNet) -> bool:
    return any(block.resampling != "none" for block in _residual_blocks(network))


def _residual_blocks(network: UNet) -> list[ResidualBlock]:
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


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
