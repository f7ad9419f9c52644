"""Grids of images, and the drawings that probes and reports share."""

from __future__ import annotations

import pytest
import torch

from probediff.pictures import grid, to_uint8, triangle


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
