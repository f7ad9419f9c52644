"""Pictures for people: grids of images, the triangle and the heat map, which probes and reports draw alike.

Reports start without torch, so that it is imported where it is used. P1 is *There and Back Again*.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probediff.display.text import escape, printable, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_SMALLEST_TILE_PX = 64
_CONTRAST_STDS = 3.0
_MOST_OFF_DEG = 0.5
_BLUE = "#0072B2"

#: Corners of a triangle: (x, y) of noise, sample and latent.
Corners = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


def font_path() -> str:
    """The file of the font that pictures are lettered with."""
    from matplotlib.font_manager import FontProperties, findfont

    return findfont(FontProperties())


def lettering(text: str, most: int = 60) -> str:
    """Text of a user or a file in one line of a picture; letters that the font lacks are spelt out, not drawn alike."""
    from matplotlib.font_manager import get_font

    font = get_font(font_path())
    known = (c if font.get_char_index(ord(c)) else escape(c) for c in printable(text))
    return shorten("".join(known), most)


def label(text: str, most: int = 60) -> str:
    """`lettering` for matplotlib, where ``$`` begins a formula and a name that begins with ``_`` is in no legend."""
    shown = lettering(text, most).replace("$", r"\$")
    return f"\N{HAIR SPACE}{shown}" if shown.startswith("_") else shown


def to_uint8(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """(N, C, H, W) values in ``value_range`` (clipped) -> (N, 3, H, W) uint8; grey images become three channels."""
    low, high = value_range
    scaled = ((images.float() - low) / (high - low)).clamp(0, 1).mul(255).round().byte()
    return scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled[:, :3]


def own_contrast(noises: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 3, H, W) uint8, each from minus to plus 3 of its own standard deviations about its mean."""
    flat = noises.flatten(1).double()
    mean, std = flat.mean(dim=1), flat.std(dim=1).clamp(min=sys.float_info.min)
    shaped = [part.reshape(-1, 1, 1, 1) for part in (mean, std)]
    return to_uint8((noises - shaped[0]) / shaped[1], (-_CONTRAST_STDS, _CONTRAST_STDS))


def grid(images: Tensor, columns: int) -> Tensor:
    """(N, 3, H, W) uint8 -> one picture, row by row; small images are enlarged by a whole factor."""
    from torchvision.utils import make_grid

    factor = max(1, -(-_SMALLEST_TILE_PX // images.shape[-1]))
    enlarged = images.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    return make_grid(enlarged, nrow=columns, padding=2, pad_value=255)


def triangle(at_noise_deg: float, at_image_deg: float, at_latent_deg: float, size_px: int = 480) -> Tensor:
    """The noise-sample-latent triangle drawn to scale (P1, figure 2): (3, size_px * 2/3, size_px) uint8."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 2.4), dpi=size_px / 3.6, facecolor="white")
    draw_triangle(figure.add_axes((0, 0, 1, 1)), (at_noise_deg, at_image_deg, at_latent_deg))
    return _render(figure)


def draw_triangle(axis: Any, angles_deg: tuple[float, float, float]) -> None:
    """Draw the triangle of angles at noise, sample and latent; noise and sample lie on its base."""
    corners = triangle_corners(*angles_deg)
    axis.fill(*zip(*corners, strict=True), facecolor=f"{_BLUE}22", edgecolor=_BLUE, linewidth=1.8)
    for corner, name, angle in zip(corners, ("noise", "sample", "latent"), angles_deg, strict=True):
        side, place = (1, "bottom") if name == "latent" else (-1, "top")
        axis.plot(*corner, "o", color="black", markersize=4)
        label, offset = f"{name}\n{angle:.1f}°", {"textcoords": "offset points", "xytext": (0, 7 * side)}
        axis.annotate(label, corner, **offset, ha="center", va=place, fontsize=9)
    # Room for the labels.
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    half = 0.62 * max(high[0] - low[0], 1.7 * (high[1] - low[1]))
    middle_x, middle_y = (low + high) / 2
    axis.set(xlim=(middle_x - half, middle_x + half), ylim=(middle_y - 0.8 * half, middle_y + 0.8 * half))
    axis.set_aspect("equal")
    axis.set_axis_off()


def is_triangle(angles_deg: tuple[float, float, float]) -> bool:
    """Whether the angles, which may be rounded, sum to 180 degrees."""
    return abs(sum(angles_deg) - 180) <= _MOST_OFF_DEG


def triangle_corners(at_noise_deg: float, at_image_deg: float, at_latent_deg: float) -> Corners:
    """Noise at (0, 0), sample at (1, 0), and where the latent then lies.

    Raises:
        ValueError: the angles do not sum to 180 degrees.
    """
    if not is_triangle((at_noise_deg, at_image_deg, at_latent_deg)):
        raise ValueError(f"angles must sum to 180, got {at_noise_deg}, {at_image_deg}, {at_latent_deg}")
    side = math.sin(math.radians(at_image_deg)) / max(math.sin(math.radians(at_latent_deg)), 1e-6)
    direction = math.radians(at_noise_deg)
    return (0.0, 0.0), (1.0, 0.0), (side * math.cos(direction), side * math.sin(direction))


def heat_map(mean_distance: Tensor, step_fraction: Tensor, lambdas: Tensor) -> Tensor:
    """The way of the samplers from noise to latent (P1, figure 3): a picture of (S, L) distances, (3, H, W) uint8."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.4), facecolor="white")
    draw_heat_map(figure.subplots(), mean_distance.numpy(), step_fraction.numpy(), lambdas.numpy())
    return _render(figure)


def draw_heat_map(axis: Any, distance: np.ndarray, step_fraction: np.ndarray, lambdas: np.ndarray) -> None:
    """Draw (S, L) mean distances over share of sampling steps and lambda, light where close; the closest ones."""
    edges = np.append(0.0, step_fraction), np.linspace(0, 1, len(lambdas) + 1)
    cells = axis.pcolormesh(*edges, distance.T, cmap="magma_r", rasterized=True)
    closest = lambdas[distance.argmin(axis=1)]
    axis.plot(step_fraction, closest, color="white", linewidth=3.5)
    axis.plot(step_fraction, closest, color=_BLUE, linewidth=1.8, label="closest point at each step")
    axis.set_xlabel("share of sampling steps done", fontsize=9)
    axis.set_ylabel("λ  (0: noise, 1: latent)", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.figure.colorbar(cells, ax=axis, label="mean L2 distance").ax.tick_params(labelsize=8)


def structure(levels: Mapping[str, np.ndarray]) -> Tensor:
    """What a network is like by noise level (`draw_structure`), as a picture (3, H, W) uint8."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.4, 3.6), facecolor="white")
    # Layouts that fit themselves take longer than all that is measured on small images.
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.14, top=0.92, wspace=0.14)
    draw_structure(list(figure.subplots(1, 3)), levels)
    return _render(figure)


def draw_structure(axes: Sequence[Any], levels: Mapping[str, np.ndarray]) -> None:
    """Draw, on three axes by noise level: the nearest exact denoiser's bandwidth, R² of the truth, the linear share.

    Bars are two standard errors, those of the bandwidth its interval; where it is not told apart there is no point.

    Args:
        axes: three pairs of axes.
        levels: columns ``levels_*`` of the probe `denoiser_structure`, (rows,) each.
    """
    splits = (("training images", _BLUE, "o"), ("held out", "#D55E00", "s"))
    for number, (words, colour, marker) in enumerate(splits):
        rows = np.asarray(levels["levels_held_out"]) == number
        if not rows.any():
            continue
        of = {name: np.asarray(column, dtype=float)[rows] for name, column in levels.items() if name[:7] == "levels_"}
        place, style = np.arange(rows.sum()) + 0.12 * number, {"color": colour, "marker": marker, "markersize": 4}
        known = np.where(of["levels_bandwidth_identified"] > 0, of["levels_bandwidth"], np.nan)
        axes[0].vlines(place, of["levels_bandwidth_low"], of["levels_bandwidth_high"], colour, alpha=0.5)
        axes[0].plot(place, known, **style, label=words)
        for axis, key in ((axes[1], "levels_r2"), (axes[2], "levels_linear_share")):
            axis.plot(place, of[key], **style, label=words)
            axis.vlines(place, of[key] - 2 * of[f"{key}_error"], of[key] + 2 * of[f"{key}_error"], colour)
        if number == 0:
            for key, words, line in (("gaussian", "Gaussian", "--"), ("training_set", "training set", ":")):
                axes[1].plot(place, of[f"levels_r2_{key}"], color="#6B6B6B", linestyle=line, label=words)
            names = [f"{sigma:.3g}" for sigma in of["levels_sigma"]]
            for axis in axes:
                axis.set_xticks(place, names)
    titles = ("nearest exact denoiser: bandwidth h", "R² of the truth", "share explained by the Gaussian")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_xlabel("noise level σ", fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(visible=True, linewidth=0.5, color="#DDDDDD")
        # An untrained network is below by orders of magnitude.
        axis.set_ylim((-0.05, 1.05) if axis is axes[0] else (-0.6, 1.08))
    axes[1].legend(fontsize=8, frameon=False)


def _render(figure: Figure) -> Tensor:
    """A figure as a (3, H, W) uint8 picture."""
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).contiguous()
