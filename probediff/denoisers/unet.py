"""The U-Net of improved-diffusion (Nichol & Dhariwal 2021) and guided-diffusion (Dhariwal & Nichol 2021).

State-dict keys are those of the published checkpoints.
"""

import torch
from torch import Tensor, nn

from probediff.denoisers.blocks import BlockFactory, Stage, group_norm, timestep_embedding, zero_parameters
from probediff.files.capacity import check_memory

_MOST_BLOCKS = 100


class UNet(nn.Module):
    """Network that predicts the noise and, with twice the output channels, the variance of a noised image.

    The defaults are those of improved-diffusion's unconditional network for CIFAR-10, but for its dropout of 0.3;
    `channel_mult` (1, 2, 3, 4) makes the one for ImageNet at 64 pixels.

    Group normalisation uses 32 groups; where 32 does not divide the channels, the largest divisor below 32.

    Args:
        image_size: Height and width of the images in pixels; says where `attention_resolutions` sit.
            Other sizes are accepted by the forward pass.
        in_channels: Channels of the images.
        out_channels: Channels of the output: `in_channels`, or twice as many to learn the variance as well.
        channels: Channels of the first level.
        channel_mult: Channels of each level as a multiple of `channels`; height and width halve from level to level.
        num_res_blocks: Residual blocks a level.
        attention_resolutions: Resolutions in pixels whose levels have attention. The middle block always has it.
        num_heads: Attention heads; ignored when `num_head_channels` is given.
        num_head_channels: Channels a head, instead of a fixed number of heads.
        dropout: Probability with which a residual block drops an activation while training.
        resblock_updown: Change the resolution inside residual blocks (guided-diffusion), not by convolutions.
        new_attention_order: Order of the rows of the attention weights: (q k v, head) if true, else (head, q k v).
        use_scale_shift_norm: Let the timestep scale and shift the normalised activations instead of being added.

    Attributes:
        arguments: What it was made with, by name, for checkpoints.

    Raises:
        ValueError: On sizes that are not positive or do not divide, or attention at a resolution that never occurs.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int = 3,
        out_channels: int = 6,
        channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 2, 2, 2),
        num_res_blocks: int = 3,
        attention_resolutions: tuple[int, ...] = (16, 8),
        num_heads: int = 4,
        num_head_channels: int | None = None,
        dropout: float = 0.0,
        resblock_updown: bool = False,
        new_attention_order: bool = False,
        use_scale_shift_norm: bool = True,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.arguments = arguments
        _check_sizes(
            image_size=image_size,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            num_res_blocks=num_res_blocks,
            num_heads=num_heads,
            num_head_channels=1 if num_head_channels is None else num_head_channels,
        )
        if num_res_blocks > _MOST_BLOCKS:
            raise ValueError(f"num_res_blocks must be at most {_MOST_BLOCKS}, got {num_res_blocks}: 3 are usual")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}: give a probability such as 0.3")
        _check_memory(channels, channel_mult, num_res_blocks)
        has_attention = _attention_levels(image_size, channel_mult, attention_resolutions)
        self.image_size = image_size
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.channels = channels
        self.size_divisor = 2 ** (len(channel_mult) - 1)
        make = BlockFactory(
            embedding_channels=4 * channels,
            dropout=dropout,
            use_scale_shift_norm=use_scale_shift_norm,
            num_heads=num_heads,
            num_head_channels=num_head_channels,
            new_attention_order=new_attention_order,
            resblock_updown=resblock_updown,
        )
        widths = [mult * channels for mult in channel_mult]
        self.time_embed = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels)
        )
        self.input_blocks, skip_widths = _input_blocks(make, in_channels, widths, num_res_blocks, has_attention)
        middle = widths[-1]
        self.middle_block = Stage(make.residual(middle, middle), make.attention(middle), make.residual(middle, middle))
        self.output_blocks = _output_blocks(make, skip_widths, widths, num_res_blocks, has_attention)
        self.out = nn.Sequential(
            group_norm(widths[0]), nn.SiLU(), zero_parameters(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the network's output for noised images.

        Args:
            x: (B, in_channels, H, W); H and W divisible by 2^(levels - 1).
            timestep: (B,) int or float, already on the scale of the training (0..1000 for published networks).

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: On other shapes.
        """
        self._check_input(x, timestep)
        embedding = self.time_embed(timestep_embedding(timestep, self.channels).to(x.dtype))
        hidden = x
        skips = []
        for stage in self.input_blocks:
            hidden = stage(hidden, embedding)
            skips.append(hidden)
        hidden = self.middle_block(hidden, embedding)
        for stage in self.output_blocks:
            hidden = stage(torch.cat([hidden, skips.pop()], dim=1), embedding)
        return self.out(hidden)

    def _check_input(self, x: Tensor, timestep: Tensor) -> None:
        divisor = self.size_divisor
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] % divisor or x.shape[3] % divisor:
            raise ValueError(
                f"x must be (B, {self.in_channels}, H, W) with H and W divisible by {divisor}, "
                f"got {tuple(x.shape)}: resize or pad the images, or build the network for them"
            )
        if timestep.shape != x.shape[:1]:
            raise ValueError(
                f"timestep must be ({x.shape[0]},), one a sample, got {tuple(timestep.shape)}: "
                "repeat a single timestep with torch.full((B,), t)"
            )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}: give a positive whole number")


def _check_memory(channels: int, channel_mult: tuple[int, ...], num_res_blocks: int) -> None:
    """Refuse what would be built for hours, or until the system ends the process."""
    # The second convolutions of the residual blocks, down and up, and the timestep's first layers.
    values = sum((2 * num_res_blocks + 1) * 9 * (mult * channels) ** 2 for mult in channel_mult) + 20 * channels**2
    check_memory(
        "the network",
        f"channels {channels}, channel_mult {list(channel_mult)} and num_res_blocks {num_res_blocks}",
        4 * values,
        "lower one of them",
    )


def _attention_levels(
    image_size: int, channel_mult: tuple[int, ...], attention_resolutions: tuple[int, ...]
) -> list[bool]:
    """Say for each level, largest resolution first, whether it has attention."""
    if not channel_mult or min(channel_mult) < 1:
        raise ValueError(
            f"channel_mult must be one positive whole number a level, got {tuple(channel_mult)}: try (1, 2, 2, 2)"
        )
    divisor = 2 ** (len(channel_mult) - 1)
    if image_size % divisor:
        raise ValueError(
            f"image_size must be divisible by {divisor} for the {len(channel_mult)} levels of channel_mult, "
            f"got {image_size}: shorten channel_mult or resize the images"
        )
    resolutions = [image_size // 2**level for level in range(len(channel_mult))]
    missing = sorted(set(attention_resolutions) - set(resolutions))
    if missing:
        raise ValueError(
            f"attention_resolutions must be among {resolutions} at image_size {image_size}, got {missing}: "
            "choose from these, or none for attention in the middle block only"
        )
    return [resolution in attention_resolutions for resolution in resolutions]


def _input_blocks(
    make: BlockFactory, in_channels: int, widths: list[int], num_res_blocks: int, has_attention: list[bool]
) -> tuple[nn.ModuleList, list[int]]:
    """Return the downward half and the channels each of its stages hands to the upward half."""
    width = widths[0]
    stages = [Stage(nn.Conv2d(in_channels, width, 3, padding=1))]
    skip_widths = [width]
    for level, level_width in enumerate(widths):
        for _ in range(num_res_blocks):
            stage = Stage(make.residual(width, level_width))
            width = level_width
            if has_attention[level]:
                stage.append(make.attention(width))
            stages.append(stage)
            skip_widths.append(width)
        if level < len(widths) - 1:
            stages.append(Stage(make.down(width)))
            skip_widths.append(width)
    return nn.ModuleList(stages), skip_widths


def _output_blocks(
    make: BlockFactory, skip_widths: list[int], widths: list[int], num_res_blocks: int, has_attention: list[bool]
) -> nn.ModuleList:
    """Return the upward half, which takes the skip connections in reverse."""
    width = widths[-1]
    skips = iter(reversed(skip_widths))
    stages = nn.ModuleList()
    for level in reversed(range(len(widths))):
        for index in range(num_res_blocks + 1):
            stage = Stage(make.residual(width + next(skips), widths[level]))
            width = widths[level]
            if has_attention[level]:
                stage.append(make.attention(width))
            if level > 0 and index == num_res_blocks:
                stage.append(make.up(width))
            stages.append(stage)
    return stages
