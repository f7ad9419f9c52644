"""From a file to a square: how images are resized, and why some are not."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional
from PIL import Image

from probediff.prepare.decoding import failure_reason, resize_and_crop, square_pixels


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_powers_of_two_are_box_averages() -> None:
    """A crop apart, two halvings are the mean of 4 x 4 blocks up to four roundings; no bicubic step follows."""
    pixels = random_pixels(32, 64)
    small = np.asarray(resize_and_crop(Image.fromarray(pixels), 8)).astype(float)
    blocks = pixels.reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, blocks[:, 4:12], atol=2.01)


def test_other_sizes_are_bicubic_after_the_halves() -> None:
    """41 x 60 -> box 20 x 30 -> bicubic 12 x 18 -> centre 12 x 12, against torch's antialiased bicubic."""
    pixels = random_pixels(41, 60)
    half = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BOX))
    tensor = torch.from_numpy(half.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(tensor, (12, 18), mode="bicubic", antialias=True).clamp(0, 255)
    expected = resized[0, :, :, 3:15].permute(1, 2, 0).numpy()
    actual = np.asarray(resize_and_crop(Image.fromarray(pixels), 12)).astype(float)
    np.testing.assert_allclose(actual, expected, atol=1.5)


@pytest.mark.parametrize("size", [(8, 8), (15, 8), (16, 17), (100, 9), (9, 31)])
def test_every_shape_becomes_a_square(size: tuple[int, int]) -> None:
    assert resize_and_crop(Image.new("RGB", size), 8).size == (8, 8)


def test_modes_and_orientations(tmp_path: Path) -> None:
    """Grey becomes RGB and colours grey; transparency is left out, and the tag of a camera that was turned is, too."""
    colour = random_pixels(8, 8)
    grey, alpha = colour[..., 0], np.dstack([colour, random_pixels(8, 8, 1)[..., 0]])
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {"colour": colour, "grey": grey, "alpha": alpha, "turned": colour}
    for name, pixels in cases.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", exif=exif if name == "turned" else None)
    expected = {name: colour for name in cases} | {"grey": np.dstack([grey] * 3)}
    for name, pixels in expected.items():
        np.testing.assert_array_equal(square_pixels(tmp_path / f"{name}.png", 8, 3), pixels.transpose(2, 0, 1))
    luminance = np.asarray(Image.fromarray(colour).convert("L"))[None]
    content = io.BytesIO((tmp_path / "alpha.png").read_bytes())
    np.testing.assert_array_equal(square_pixels(content, 8, 1), luminance)


@pytest.mark.parametrize(("values", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_more_than_8_bits_are_refused(tmp_path: Path, values: type[np.generic], mode: str) -> None:
    Image.fromarray(np.full((8, 8), 40000, values)).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=rf"^has mode {mode}, more than 8 bits a channel; convert it to 8 bits$"):
        square_pixels(tmp_path / "deep.tiff", 8, 3)


def test_reasons_name_no_path_and_no_address() -> None:
    assert failure_reason(PermissionError(13, "Permission denied", "/home/me/a.png")) == "Permission denied"
    assert (
        failure_reason(SyntaxError("odd <_io.BytesIO object at 0x7f00ab>\n chunk")) == "odd <_io.BytesIO object> chunk"
    )
    assert failure_reason(ValueError()) == "ValueError"
