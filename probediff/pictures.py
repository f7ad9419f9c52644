"""Pictures for people: grids of images as (3, H, W) uint8."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import make_grid

_SMALLEST_TILE_PX = 64


def to_uint8(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """(N, C, H, W) values in ``value_range`` (clipped) -> (N, 3, H, W) uint8; grey images become three channels."""
    low, high = value_range
    scaled = ((images.float() - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled[:, :3]


def grid(images: Tensor, columns: int) -> Tensor:
    """(N, 3, H, W) uint8 -> one picture, row by row; small images are enlarged by a whole factor."""
    factor = max(1, -(-_SMALLEST_TILE_PX // images.shape[-1]))
    enlarged = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    return make_grid(enlarged, nrow=columns, padding=2, pad_value=255)
