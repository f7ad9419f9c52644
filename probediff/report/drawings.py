"""The figures that are no curves: triangles to scale, heat maps, rows of pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_MOST_COLUMNS = 3
_PICTURE_DPI = 100
_MOST_PICTURE_PX = 1100
_ROW_LABEL_PX = 120


def draw_triangles(triangles: dict[str, tuple[float, float, float]]) -> Drawing:
    """Noise-sample-latent triangles to scale; the sides between noise and sample are drawn equally long.

    Args:
        triangles: angles at noise, sample and latent in degrees, summing to 180, by title.
    """
    from matplotlib.figure import Figure

    columns = min(_MOST_COLUMNS, len(triangles))
    rows = -(-len(triangles) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, angles) in zip(axes, triangles.items(), strict=False):
        corners = triangle_corners(*angles)
        axis.fill(*zip(*corners, strict=True), facecolor="#0072B222", edgecolor="#0072B2", linewidth=1.8)
        for (x, y), name, angle in zip(corners, ("noise", "sample", "latent"), angles, strict=True):
            up = name == "latent"
            axis.plot(x, y, "o", color="black", markersize=4)
            axis.annotate(
                f"{name}\n{angle:.1f}°",
                (x, y),
                textcoords="offset points",
                xytext=(0, 7 if up else -7),
                ha="center",
                va="bottom" if up else "top",
                fontsize=9,
            )
        _room_for_labels(axis, corners)
        axis.set_title(title, fontsize=10)
    return figure


def _room_for_labels(axis: Any, corners: tuple[tuple[float, float], ...]) -> None:
    xs, ys = zip(*corners, strict=True)
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    half = 0.62 * max(width, 1.5 * height)
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    axis.set_xlim(middle_x - half, middle_x + half)
    axis.set_ylim(middle_y - 0.8 * half, middle_y + 0.8 * half)
    axis.set_aspect("equal")


def triangle_corners(
    at_noise_deg: float, at_sample_deg: float, at_latent_deg: float
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Noise at (0, 0), sample at (1, 0), and where the latent then lies.

    Raises:
        ValueError: the angles do not sum to 180 degrees.
    """
    if abs(at_noise_deg + at_sample_deg + at_latent_deg - 180) > 0.5:
        raise ValueError(f"angles must sum to 180, got {at_noise_deg}, {at_sample_deg}, {at_latent_deg}")
    side = math.sin(math.radians(at_sample_deg)) / max(math.sin(math.radians(at_latent_deg)), 1e-6)
    direction = math.radians(at_noise_deg)
    return (0.0, 0.0), (1.0, 0.0), (side * math.cos(direction), side * math.sin(direction))


def draw_heat_maps(maps: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Drawing:
    """Mean distances over share of sampling steps and lambda, light where close; the closest lambda of each step.

    Args:
        maps: (S, L) distances, (S,) shares and (L,) lambdas by title.
    """
    from matplotlib.figure import Figure

    columns = min(_MOST_COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.5 * rows + 0.4), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    for axis, (title, (distance, share, lambdas)) in zip(axes, maps.items(), strict=False):
        drawn = axis.pcolormesh(share, lambdas, distance.T, cmap="cividis_r", shading="nearest", rasterized=True)
        closest = lambdas[distance.argmin(axis=1)]
        axis.plot(share, closest, color="white", linewidth=3.5)
        axis.plot(share, closest, color="#D55E00", linewidth=1.8, label="closest point at each step")
        axis.set_xlabel("share of sampling steps done", fontsize=9)
        axis.set_ylabel("λ  (0: noise, 1: latent)", fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        figure.colorbar(drawn, ax=axis, label="mean L2 distance").ax.tick_params(labelsize=8)
    handles, labels = axes[0].get_legend_handles_labels() if maps else ([], [])
    figure.legend(handles, labels, loc="outside lower center", fontsize=8.5, frameon=False)
    return figure


def draw_picture(pixels: np.ndarray, row_labels: list[str]) -> Drawing:
    """A picture pixel by pixel, with a word beside each of its equally high rows.

    Args:
        pixels: (H, W, 3) uint8.
        row_labels: from top to bottom; [] for none.
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
        figure.text((margin - 8) / (width + margin), middle, text, ha="right", va="center", fontsize=9)
    return figure


def read_picture(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8, or None for a file that is just being written or is damaged."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None
