"""The figures that are no curves: triangles to scale, heat maps, rows of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from probediff.files import open_plain_file
from probediff.pictures import draw_heat_map, draw_triangle, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_PICTURE_DPI = 100
_MOST_PICTURE_PX = 1100
_ROW_LABEL_PX = 120

#: (S, L) mean distances, (S,) shares of sampling steps and (L,) lambdas.
HeatMap = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_axes(
    count: int, inches: tuple[float, float], legend_inches: float = 0.0, most_columns: int = 3
) -> tuple[Drawing, list[Any]]:
    """A white figure with so many pairs of axes in rows, and room for a legend below them."""
    from matplotlib.figure import Figure

    columns = min(most_columns, count)
    rows = -(-count // columns)
    size = inches[0] * columns, inches[1] * rows + legend_inches
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def plain_axes(axis: Any) -> None:
    """A light grid, small numbers, and lines on two sides only."""
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, linewidth=0.5, color="#DDDDDD")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def draw_triangles(triangles: dict[str, tuple[float, float, float]]) -> Drawing:
    """Noise-sample-latent triangles to scale, by title; the sides between noise and sample are equally long."""
    figure, axes = draw_axes(len(triangles), (3.6, 2.9))
    for axis, (title, angles) in zip(axes, triangles.items(), strict=True):
        draw_triangle(axis, angles)
        axis.set_title(label(title, 45), fontsize=10)
    return figure


def draw_heat_maps(maps: dict[str, HeatMap]) -> Drawing:
    """Mean distances over share of sampling steps and lambda, by title."""
    figure, axes = draw_axes(len(maps), (4.4, 3.5), legend_inches=0.4)
    for axis, (title, arrays) in zip(axes, maps.items(), strict=True):
        draw_heat_map(axis, *arrays)
        axis.set_title(label(title, 45), fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8.5, frameon=False)
    return figure


def draw_picture(pixels: np.ndarray, row_labels: Sequence[str] = ()) -> Drawing:
    """A picture pixel by pixel, with a word beside each of its equally high rows.

    Args:
        pixels: (H, W, 3) uint8.
        row_labels: from top to bottom; none by default.
    """
    from matplotlib.figure import Figure

    height, width = pixels.shape[:2]
    if width > _MOST_PICTURE_PX:
        height, width = round(height * _MOST_PICTURE_PX / width), _MOST_PICTURE_PX
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    margin = _ROW_LABEL_PX if row_labels else 0
    figure = Figure(figsize=((width + margin) / _PICTURE_DPI, height / _PICTURE_DPI), dpi=_PICTURE_DPI)
    figure.set_facecolor("white")
    axis = figure.add_axes((margin / (width + margin), 0.0, width / (width + margin), 1.0))
    axis.imshow(pixels, interpolation="none", aspect="auto")
    axis.set_axis_off()
    for k, text in enumerate(row_labels):
        middle = 1 - (k + 0.5) / len(row_labels)
        figure.text((margin - 8) / (width + margin), middle, label(text, 18), ha="right", va="center", fontsize=9)
    return figure


def read_picture(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8, or None for a file that is just being written or is damaged."""
    if not path.is_file():
        return None
    try:
        with open_plain_file(path) as file, Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
