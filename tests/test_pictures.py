"""Grids of images, and the drawings that probes and reports share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probediff.pictures import grid, heat_map, to_uint8, triangle, triangle_corners


def test_to_uint8_and_grid() -> None:
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(4, 1, 1, 1).expand(4, 1, 8, 8)
    pixels = to_uint8(images)
    assert pixels.shape == (4, 3, 8, 8)
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 128, 255]
    assert to_uint8(images, (-2, 2))[:, 0, 0, 0].tolist() == [0, 64, 128, 191]
    assert grid(pixels, 2).shape == (3, 2 * 66 + 2, 2 * 66 + 2)


@pytest.mark.parametrize("angles", [(60, 60, 60), (20, 30, 130), (0, 0, 180), (100, 79.5, 0.5), (130, 20, 30)])
def test_triangles_fit_their_picture(angles: tuple[float, float, float]) -> None:
    picture = triangle(*angles, size_px=240)
    assert picture.shape == (3, 160, 240)
    assert picture.dtype == torch.uint8
    dark = (picture < 128).all(0)
    assert dark.any()
    assert not dark[[0, -1]].any()
    assert not dark[:, [0, -1]].any()


def test_triangles_must_close() -> None:
    with pytest.raises(ValueError, match="angles must sum to 180, got 60, 60, 70"):
        triangle(60, 60, 70)


def test_a_triangle_is_drawn_with_its_angles() -> None:
    noise, sample, latent = map(np.array, triangle_corners(40.0, 30.0, 110.0))

    def angle(at: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        u, v = a - at, b - at
        return float(np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))))

    assert angle(noise, sample, latent) == pytest.approx(40)
    assert angle(sample, noise, latent) == pytest.approx(30)
    assert angle(latent, noise, sample) == pytest.approx(110)
    with pytest.raises(ValueError, match="angles must sum to 180"):
        triangle_corners(40, 30, 100)


@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_a_heat_map_is_light_where_the_distance_is_small(num_steps: int) -> None:
    share = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    lambdas = torch.linspace(0, 1, 11, dtype=torch.float64)
    picture = heat_map(5 + lambdas.expand(num_steps, -1), share, lambdas)
    assert picture.shape == (3, 440, 540)
    assert picture.dtype == torch.uint8
    column = picture[:, :, 240].float().mean(dim=0)
    low, middle, high = (float(column[row - 3 : row + 3].mean()) for row in (370, 230, 70))
    assert low > middle > high
    alike = heat_map(torch.full((num_steps, 11), 5.0), share, lambdas)
    assert alike.shape == picture.shape
