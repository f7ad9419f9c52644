"""Read the checkpoints that OpenAI published with improved-diffusion and guided-diffusion."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from probediff.denoisers.architecture import Architecture, infer_architecture, tensor_shape
from probediff.denoisers.blocks import ResidualBlock
from probediff.denoisers.predictions import EpsModel
from probediff.denoisers.unet import UNet
from probediff.files import load_strictly, read_weights
from probediff.schedule import NoiseSchedule, ScheduleName


@dataclass(frozen=True)
class Untold:
    """What a network needs beside its architecture, and its tensors do not say.

    Attributes:
        image_size: height and width in pixels.
        num_heads: attention heads; None where ``num_head_channels`` says how many.
        num_head_channels: channels a head; None where ``num_heads`` is fixed.
    """

    image_size: int
    num_heads: int | None = None
    num_head_channels: int | None = None


@dataclass(frozen=True)
class PublishedNetwork:
    """A published, unconditional network, by the command that made it.

    Attributes:
        name: repository and data.
        untold: size and heads.
        schedule: that it was trained with.
        num_train_timesteps: T.
    """

    name: str
    untold: Untold
    schedule: ScheduleName
    num_train_timesteps: int


#: MODEL_FLAGS and DIFFUSION_FLAGS in README.md of github.com/openai/improved-diffusion (1bc7bbb) and
#: github.com/openai/guided-diffusion (22e0df8), with the defaults of their script_util.py. The LSUN networks of
#: guided-diffusion have the architecture and the flags of its ImageNet one.
PUBLISHED = {
    Architecture(128, (1, 2, 2, 2), 3, (2, 4)): PublishedNetwork(
        "improved-diffusion CIFAR-10", Untold(32, num_heads=4), "cosine", 4000
    ),
    Architecture(128, (1, 2, 3, 4), 3, (4, 8)): PublishedNetwork(
        "improved-diffusion ImageNet 64x64", Untold(64, num_heads=4), "cosine", 4000
    ),
    Architecture(128, (1, 1, 2, 2, 4, 4), 2, (16,), use_scale_shift_norm=False): PublishedNetwork(
        "improved-diffusion LSUN 256x256", Untold(256, num_heads=1), "linear", 1000
    ),
    Architecture(256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), resblock_updown=True): PublishedNetwork(
        "guided-diffusion 256x256", Untold(256, num_head_channels=64), "linear", 1000
    ),
}


@dataclass(frozen=True)
class OpenAICheckpoint:
    """A file of an unconditional network.

    Attributes:
        path: the file.
        state: its tensors.
    """

    path: Path
    state: dict[str, Tensor]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> OpenAICheckpoint:
        """Read a file without unpickling code; errors as of `load_openai`."""
        state = read_weights(Path(path))
        if "label_emb.weight" in state:
            raise ValueError(
                f"{path} must be an unconditional network, got a class-conditional one "
                f"({len(state['label_emb.weight'])} classes in label_emb.weight): use a checkpoint trained without "
                "classes"
            )
        return cls(Path(path), state)

    @cached_property
    def architecture(self) -> Architecture:
        """What the tensors determine; raises ValueError where they are those of another kind of network."""
        try:
            return infer_architecture(self.state)
        except (ValueError, ArithmeticError) as error:
            raise self._no_network(error) from error

    @property
    def published(self) -> PublishedNetwork | None:
        """The published network of this architecture, if there is one."""
        return PUBLISHED.get(self.architecture)

    def untold(
        self, image_size: int | None = None, num_heads: int | None = None, num_head_channels: int | None = None
    ) -> Untold:
        """What was given, and for the rest the published or else the nominal values; see `load_openai_network`.

        Raises:
            ValueError: When the size does not divide, or both ways to say the number of heads are taken.
        """
        divisor = self.architecture.size_divisor
        if image_size is not None and (image_size < 1 or image_size % divisor):
            raise ValueError(
                f"image_size must be a multiple of {divisor} for the {len(self.architecture.channel_mult)} levels of "
                f"{self.path}, got {image_size}: give the size that it was trained with"
            )
        if num_heads is not None and num_head_channels is not None:
            raise ValueError(
                f"num_heads and num_head_channels exclude each other, got {num_heads} and {num_head_channels}: give one"
            )
        default = self._nominal() if self.published is None else self.published.untold
        if num_heads is None and num_head_channels is None:
            num_heads, num_head_channels = default.num_heads, default.num_head_channels
        return Untold(default.image_size if image_size is None else image_size, num_heads, num_head_channels)

    def network(self, untold: Untold) -> UNet:
        """The network in float32 on the CPU, in eval mode; errors as of `load_openai`."""
        architecture, size = self.architecture, untold.image_size
        try:
            # On the meta device nothing is initialised, so the global random state stays as it is.
            with torch.device("meta"):
                network = UNet(
                    image_size=size,
                    in_channels=tensor_shape(self.state, "input_blocks.0.0.weight")[1],
                    out_channels=tensor_shape(self.state, "out.2.weight")[0],
                    channels=architecture.channels,
                    channel_mult=architecture.channel_mult,
                    num_res_blocks=architecture.num_res_blocks,
                    attention_resolutions=tuple(size // rate for rate in architecture.attention_rates),
                    num_heads=1 if untold.num_heads is None else untold.num_heads,
                    num_head_channels=untold.num_head_channels,
                    resblock_updown=architecture.resblock_updown,
                    use_scale_shift_norm=architecture.use_scale_shift_norm,
                )
        except ValueError as error:
            told = f"{error} (with --image_size {size}, --num_heads {untold.num_heads}, --num_head_channels "
            raise self._no_network(f"{told}{untold.num_head_channels})") from error
        requirement = f"{self.path} must match the network inferred from it"
        cure = "Use an unchanged improved-diffusion or guided-diffusion checkpoint"
        weights = {name: tensor.float() for name, tensor in self.state.items()}
        load_strictly(network, weights, requirement, cure, assign=True)
        return network.eval()

    def _nominal(self) -> Untold:
        size = 8 * self.architecture.size_divisor
        if self.architecture.resblock_updown:
            return Untold(size, num_head_channels=64)
        return Untold(size, num_heads=4 if self.architecture.use_scale_shift_norm else 1)

    def _no_network(self, error: object) -> ValueError:
        return ValueError(f"{self.path} must be a network of improved-diffusion or guided-diffusion: {error}")


def load_openai(
    path: str | os.PathLike[str],
    schedule: NoiseSchedule,
    num_heads: int | None = None,
    image_size: int | None = None,
    num_head_channels: int | None = None,
) -> EpsModel:
    """Load an unconditional OpenAI checkpoint: `load_openai_network` as an `openai_eps_model`.

    Args:
        path: `.pt` file (read without unpickling code) or `.safetensors` file with the state dict, alone or in a
            wrapper; see `probediff.files.read_weights`.
        schedule: Schedule the network was trained with; its length is T.
        num_heads: Number of attention heads, for networks other than the published ones.
        image_size: Height and width in pixels, likewise.
        num_head_channels: Channels a head, instead of a fixed number of heads, likewise.

    Returns:
        The network in float32 on the CPU, in eval mode.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it holds no state dict, a class-conditional network, or another architecture (named).
    """
    return openai_eps_model(load_openai_network(path, num_heads, image_size, num_head_channels), len(schedule))


def load_openai_network(
    path: str | os.PathLike[str],
    num_heads: int | None = None,
    image_size: int | None = None,
    num_head_channels: int | None = None,
) -> UNet:
    """Load the network of an unconditional OpenAI checkpoint; the architecture is read off the tensors.

    The tensors do not say the image size and the attention heads. Of a published architecture (`PUBLISHED`) both are
    known. Of any other one they should be given: what is left out is nominal, namely 8 pixels at the lowest level,
    and 64 channels a head where the network resamples inside residual blocks (as in guided-diffusion), or else 4 heads,
    or 1 without scale-shift norm. The forward pass depends on the heads, not on `UNet.image_size`. Rows of the
    attention weights are ordered (head, q k v), and dropout is 0. Arguments and errors as in `load_openai`.
    """
    checkpoint = OpenAICheckpoint.read(path)
    return checkpoint.network(checkpoint.untold(image_size, num_heads, num_head_channels))


def openai_eps_model(network: UNet, num_train_timesteps: int) -> EpsModel:
    """Make an `eps_model` that shows the network its timesteps on the scale it was trained with.

    That is timestep * 1000 / T in improved-diffusion and the timestep itself in guided-diffusion, the defaults of the
    two. Guided-diffusion's published networks, and improved-diffusion's LSUN ones, have T = 1000, where both agree.
    """
    is_guided = any(block.resampling != "none" for block in network.modules() if isinstance(block, ResidualBlock))
    return EpsModel(network, num_train_timesteps, rescale_timesteps=not is_guided).eval()
