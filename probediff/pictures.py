"""Pictures for people: grids of images as (3, H, W) uint8."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

_SMALLEST_TILE_PX = 64
_CONTRAST_STDS = 3.0


def to_uint8(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """(N, C, H, W) values in ``value_range`` (clipped) -> (N, 3, H, W) uint8; grey images become three channels."""
    low, high = value_range
    scaled = ((images.float() - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled[:, :3]


def own_contrast(noises: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 3, H, W) uint8, each from minus to plus 3 of its own standard deviations about its mean."""
    flat = noises.flatten(1).double()
    mean, std = flat.mean(dim=1), flat.std(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    shaped = [part.reshape(-1, 1, 1, 1) for part in (mean, std)]
    return to_uint8((noises - shaped[0]) / shaped[1], (-_CONTRAST_STDS, _CONTRAST_STDS))


def grid(images: Tensor, columns: int) -> Tensor:
    """(N, 3, H, W) uint8 -> one picture, row by row; small images are enlarged by a whole factor."""
    factor = max(1, -(-_SMALLEST_TILE_PX // images.shape[-1]))
    enlarged = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    return make_grid(enlarged, nrow=columns, padding=2, pad_value=255)


def triangle(at_noise_deg: float, at_image_deg: float, at_latent_deg: float, size_px: int = 480) -> Tensor:
    """The noise-sample-latent triangle drawn to scale (P1-F2): (3, size_px * 2/3, size_px) uint8.

    Noise and sample lie on the base; the angles must sum to 180 degrees.
    """
    if abs(at_noise_deg + at_image_deg + at_latent_deg - 180) > 1e-3:
        raise ValueError(f"angles must sum to 180, got {at_noise_deg}, {at_image_deg}, {at_latent_deg}")
    # Drawn four times as large and reduced, because Pillow's lines have no smooth edges.
    width, height, margin = 4 * size_px, 4 * size_px * 2 // 3, size_px // 2
    noise_to_latent = math.sin(math.radians(at_image_deg)) / max(math.sin(math.radians(at_latent_deg)), 1e-6)
    direction = math.radians(at_noise_deg)
    corners = np.array([(0, 0), (1, 0), (noise_to_latent * math.cos(direction), noise_to_latent * math.sin(direction))])
    extent = np.ptp(corners, axis=0)
    scale = min((width - 2 * margin) / extent[0], (height - 2 * margin) / max(extent[1], 1e-6))
    placed = (corners - corners.min(axis=0)) * (scale, -scale) + (margin, height - margin)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.polygon([tuple(corner) for corner in placed], outline="black", width=size_px // 60)
    font = ImageFont.load_default(size_px // 5)
    angles = (at_noise_deg, at_image_deg, at_latent_deg)
    for (x, y), name, angle in zip(placed, ("noise", "image", "latent"), angles, strict=True):
        above = name == "latent"
        draw.text(
            (x, y + (-1 if above else 1) * margin / 3), f"{name} {angle:.0f}°", "black", font, "ms" if above else "mt"
        )
    small = canvas.resize((size_px, size_px * 2 // 3), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)
