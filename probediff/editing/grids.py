"""Labelled grids of images, and the curve of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from probediff.pictures import font_path, label, lettering, to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMALLEST_TILE_PX, _LARGEST_TILE_PX, _GAP_PX, _FONT_PX = 72, 256, 3, 12
_LABEL_LETTERS = 30


def noise_picture(noise: Tensor) -> Tensor:
    """(..., C, H, W) noises -> (..., 3, H, W) in [-1, 1]: 3 standard deviations either way, up to three channels."""
    shown = noise[..., :3, :, :] if noise.shape[-3] >= 3 else noise[..., :1, :, :]
    return (shown / 3).clamp(-1, 1).expand(*noise.shape[:-3], 3, *noise.shape[-2:])


def labelled_grid(rows: Sequence[Sequence[Tensor]], columns: Sequence[str], labels: Sequence[str]) -> Image.Image:
    """One picture of images (c, h, w) in [-1, 1], with a word above each column and beside each row.

    Images smaller than 72 pixels are enlarged by a whole factor, larger than 256 reduced, all to one size.
    """
    size = _tile_size(rows[0][0].shape[-1])
    font = ImageFont.truetype(font_path(), _FONT_PX)
    words = [_wrap(lettering(word), size, font) for word in columns]
    names = [lettering(word, _LABEL_LETTERS) for word in labels]
    margin = max(int(font.getlength(name)) for name in names) + 2 * _GAP_PX
    height = (_FONT_PX + 3) * max(word.count("\n") + 1 for word in words) + _GAP_PX
    step = size + _GAP_PX
    canvas = Image.new("RGB", (margin + step * len(columns), height + step * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for k, word in enumerate(words):
        draw.multiline_text((margin + k * step + size / 2, 0), word, "black", font, "ma", align="center")
    for r, (row, name) in enumerate(zip(rows, names, strict=True)):
        draw.text((margin - _GAP_PX, height + r * step + size / 2), name, "black", font, "rm")
        for k, image in enumerate(row):
            canvas.paste(_tile(image, size), (margin + k * step, height + r * step))
    return canvas


def _tile_size(side: int) -> int:
    return side * -(-_SMALLEST_TILE_PX // side) if side < _SMALLEST_TILE_PX else min(side, _LARGEST_TILE_PX)


def _tile(image: Tensor, size: int) -> Image.Image:
    pixels = to_uint8(image[None].cpu())[0].permute(1, 2, 0)
    kind = Image.Resampling.LANCZOS if pixels.shape[1] > size else Image.Resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), kind)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text with line breaks, so that its lines fit into a column; a long word is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        while font.getlength(word) > width:
            word = f"{word[:-2]}…" if word.endswith("…") else f"{word[:-1]}…"
        lines.append(word)
    return "\n".join(lines)


def loss_curves(iterations: Tensor, curve: Tensor, names: Sequence[str], loss: str) -> Figure:
    """The loss of every chain (P, B, K) against the iterations (P,), one colour an image."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", facecolor="white")
    axis = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for k, (name, colour) in enumerate(zip(names, colours, strict=True)):
        lines = axis.plot(iterations, curve[:, k], color=colour, linewidth=0.9, alpha=0.8)
        lines[0].set_label(label(name))
    axis.set_xlabel("proposals")
    axis.set_ylabel(f"{loss} loss")
    axis.set_yscale("log")
    axis.grid(alpha=0.25)
    if len(names) <= 10:
        axis.legend(fontsize=8, frameon=False)
    return figure


def search_grid(images: Tensor, noise: Tensor, dewhitened: Tensor, names: Sequence[str]) -> Image.Image:
    """The first M images (B, c, h, w), what their first noises give when de-whitened (M, c, h, w), all their noises."""
    pictures = noise_picture(noise)
    rows = [[images[k], image, *pictures[k]] for k, image in enumerate(dewhitened)]
    columns = ["image", "de-whitened noise 1", *(f"noise {k + 1}" for k in range(noise.shape[1]))]
    return labelled_grid(rows, columns, list(names)[: len(rows)])
