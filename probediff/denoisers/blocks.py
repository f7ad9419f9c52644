"""Building blocks of the U-Net of Nichol & Dhariwal (2021) and Dhariwal & Nichol (2021)."""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Resampling = Literal["none", "down", "up"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017), cosines first as in improved-diffusion.

    Args:
        timestep: (B,) int or float timesteps, on the scale the network was trained with.
        channels: Length of the embedding; when odd, the last entry is 0.

    Returns:
        (B, channels) float32.
    """
    half = channels // 2
    frequency = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / max(half, 1)
    )
    angle = timestep.float()[:, None] * frequency
    return functional.pad(torch.cat([angle.cos(), angle.sin()], dim=-1), (0, channels % 2))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or with the largest divisor of `channels` below 32 where 32 does not divide it."""
    groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def zero_parameters(module: ModuleT) -> ModuleT:
    """Set every parameter of `module` to zero, so that the branch it ends starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResidualBlock(nn.Module):
    """Two normalised convolutions with the timestep embedding between them, around a skip connection."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float,
        use_scale_shift_norm: bool,
        resampling: Resampling = "none",
    ) -> None:
        super().__init__()
        self.resampling = resampling
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(
            group_norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        modulation_channels = 2 * out_channels if use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_channels, modulation_channels))
        last_convolution = zero_parameters(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.out_layers = nn.Sequential(group_norm(out_channels), nn.SiLU(), nn.Dropout(dropout), last_convolution)
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, E) -> (B, C_out, H', W'), H' halved or doubled where the block resamples."""
        norm, activation, convolution = self.in_layers
        hidden = convolution(self._resample(activation(norm(x))))
        modulation = self.emb_layers(embedding)[:, :, None, None]
        if self.use_scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            hidden = self.out_layers[0](hidden) * (1 + scale) + shift
            hidden = self.out_layers[1:](hidden)
        else:
            hidden = self.out_layers(hidden + modulation)
        return self.skip_connection(self._resample(x)) + hidden

    def _resample(self, x: Tensor) -> Tensor:
        if self.resampling == "down":
            return functional.avg_pool2d(x, 2)
        if self.resampling == "up":
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return x


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the pixels, around a skip connection.

    Args:
        channels: Channels of the input and the output.
        num_heads: Attention heads; must divide `channels`.
        new_attention_order: The 3 C rows of `qkv` are ordered (q k v, head, channel) if True and
            (head, q k v, channel) if False, the order of improved-diffusion.
    """

    def __init__(self, channels: int, num_heads: int, new_attention_order: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.new_attention_order = new_attention_order
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_parameters(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self._split_heads(_pointwise(self.qkv, tokens))
        attended = _attend(q, k, v).transpose(1, 2).reshape(batch, -1, channels)
        update = _pointwise(self.proj_out, attended).transpose(1, 2)
        return x + update.reshape(batch, channels, height, width)

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, 3 C) -> three tensors (B, num_heads, L, C / num_heads)."""
        if self.new_attention_order:
            parts = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            parts = qkv.unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        q, k, v = parts.unbind(0)
        return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # torch's backward pass in bfloat16 on a CPU takes up to four times that in float32, casts included.
        with torch.autocast("cpu", enabled=False):
            return functional.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()
    return functional.scaled_dot_product_attention(q, k, v)


def _pointwise(convolution: nn.Conv1d, tokens: Tensor) -> Tensor:
    """Apply a convolution of width 1 to (B, L, C) tokens: the layout channels-last images already have."""
    return functional.linear(tokens, convolution.weight.squeeze(-1), convolution.bias)


class Stage(nn.Sequential):
    """Layers in sequence; residual blocks among them also get the timestep embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C_in, H, W), (B, E) -> (B, C_out, H', W')."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


@dataclass(frozen=True)
class BlockFactory:
    """Make the blocks of one network from what they have in common."""

    embedding_channels: int
    dropout: float
    use_scale_shift_norm: bool
    num_heads: int
    num_head_channels: int | None
    new_attention_order: bool
    resblock_updown: bool

    def residual(self, in_channels: int, out_channels: int, resampling: Resampling = "none") -> ResidualBlock:
        """Make a residual block."""
        return ResidualBlock(
            in_channels, out_channels, self.embedding_channels, self.dropout, self.use_scale_shift_norm, resampling
        )

    def attention(self, channels: int) -> AttentionBlock:
        """Make an attention block; ValueError where the channels do not divide into heads."""
        divisor = self.num_head_channels or self.num_heads
        if channels % divisor:
            argument = "num_head_channels" if self.num_head_channels else "num_heads"
            raise ValueError(
                f"{argument} must divide the {channels} channels of an attention level, got {divisor}: "
                f"choose a divisor of {channels}"
            )
        num_heads = channels // divisor if self.num_head_channels else divisor
        return AttentionBlock(channels, num_heads, self.new_attention_order)

    def down(self, channels: int) -> nn.Module:
        """Make the block that halves height and width."""
        return self.residual(channels, channels, "down") if self.resblock_updown else Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        """Make the block that doubles height and width."""
        return self.residual(channels, channels, "up") if self.resblock_updown else Upsample(channels)
