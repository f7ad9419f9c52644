"""From a file to a square: how images are resized, and why some are not."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from probediff.prepare.decoding import failure_reason, quiet_pillow, resize_and_crop, square_pixels


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


def decode_version_1(image: Image.Image, image_size: int, channels: int) -> np.ndarray:
    """What version 1 made of a file: the mode converted, nothing turned, alpha dropped."""
    square = resize_and_crop(image.convert("RGB" if channels == 3 else "L"), image_size)
    return np.asarray(square).reshape(image_size, image_size, channels).transpose(2, 0, 1)


@given(
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    mode=st.sampled_from(["RGB", "L", "1", "CMYK"]),
    channels=st.sampled_from([1, 3]),
    is_grainy=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_plain_images_are_those_of_version_1(
    height: int, width: int, mode: str, channels: int, is_grainy: bool
) -> None:
    """Bit for bit: colours and greys of 8 bits, as lossless files and as photographs."""
    image = Image.fromarray(random_pixels(height, width)).convert(mode)
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    content = encode(image, "JPEG" if is_grainy and mode != "1" else file_format)
    with Image.open(content) as reopened:
        expected = decode_version_1(reopened, 4, channels)
    np.testing.assert_array_equal(square_pixels(content, 4, channels), expected)


def encode(image: Image.Image, file_format: str, **options: object) -> io.BytesIO:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content


#: What each orientation does to (H, W, C) as it is stored, in words of NumPy.
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_the_camera_was(orientation: int, file_format: str) -> None:
    """Against rotations of NumPy; the part that is cropped away changes with the orientation, so it comes first."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = random_pixels(8, 12)
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(Image.fromarray(pixels), file_format, exif=exif, **options)
    expected = decode_version_1(Image.fromarray(np.ascontiguousarray(TURNS[orientation](pixels))), 8, 3)
    np.testing.assert_array_equal(square_pixels(content, 8, 3), expected)


@pytest.mark.parametrize("tag", [b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"no exif", b""])
def test_damaged_tags_turn_nothing(tag: bytes) -> None:
    pixels = random_pixels(8, 8)
    with quiet_pillow():
        decoded = square_pixels(encode(Image.fromarray(pixels), "PNG", exif=tag), 8, 3)
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1))


def test_a_small_image_is_told_as_it_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(random_pixels(7, 30)), "PNG", exif=exif)
    with pytest.raises(ValueError, match=r"^is 7 x 30 pixels, smaller than image_size 8$"):
        square_pixels(content, 8, 3)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, C) colours over white, rounded once."""
    share = alpha[..., None].astype(np.float64) / 255
    return np.floor(pixels * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def transparent_files() -> dict[str, tuple[io.BytesIO, np.ndarray]]:
    """Every way in which a file is transparent, and what an eye sees of it on white, (H, W, 3)."""
    colour, alpha = random_pixels(8, 8), random_pixels(8, 8, 1)[..., 0]
    grey = np.repeat(colour[..., :1], 3, axis=2)
    some = np.where(np.arange(8)[:, None] < 4, 0, 255).astype(np.uint8).repeat(8, axis=1)
    palette = Image.fromarray(colour).quantize(16)
    seen = np.asarray(palette.convert("RGB"))
    index = int(np.asarray(palette)[0, 0])
    index_alpha = np.where(np.asarray(palette) == index, 0, 255)
    shades = np.random.default_rng(2).integers(0, 256, 16, dtype=np.uint8)
    rgba, la = Image.fromarray(np.dstack([colour, alpha])), Image.fromarray(np.dstack([colour[..., 0], alpha]), "LA")
    key = tuple(int(value) for value in colour[0, 0])
    return {
        "RGBA": (encode(rgba, "PNG"), on_white(colour, alpha)),
        "RGBA webp": (encode(rgba, "WEBP", lossless=True, exact=True), on_white(colour, alpha)),
        "LA": (encode(la, "PNG"), on_white(grey, alpha)),
        "opaque": (encode(Image.fromarray(np.dstack([colour, np.full_like(alpha, 255)])), "PNG"), colour),
        "half": (encode(Image.fromarray(np.dstack([colour, some])), "PNG"), on_white(colour, some)),
        "P with an index": (encode(palette, "PNG", transparency=index), on_white(seen, index_alpha)),
        "P with shades": (
            encode(palette, "PNG", transparency=shades.tobytes()),
            on_white(seen, shades[np.asarray(palette)]),
        ),
        "GIF": (encode(palette, "GIF", transparency=index), on_white(seen, index_alpha)),
        "RGB with a key": (
            encode(Image.fromarray(colour), "PNG", transparency=key),
            on_white(colour, np.where((colour == colour[0, 0]).all(axis=2), 0, 255)),
        ),
        "L with a key": (
            encode(Image.fromarray(colour[..., 0]), "PNG", transparency=int(colour[0, 0, 0])),
            on_white(grey, np.where(colour[..., 0] == colour[0, 0, 0], 0, 255)),
        ),
    }


@pytest.mark.parametrize("kind", transparent_files())
def test_transparent_parts_are_white(kind: str) -> None:
    """Against one rounding of NumPy's float64."""
    content, expected = transparent_files()[kind]
    np.testing.assert_array_equal(square_pixels(content, 8, 3), expected.transpose(2, 0, 1))
    luminance = np.asarray(Image.fromarray(expected).convert("L"))
    np.testing.assert_array_equal(square_pixels(content, 8, 1)[0], luminance)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(square_pixels(content, 8, 3)[:, 0, 0], [255, 0, 0])


def test_what_could_fill_the_memory_or_start_a_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.fromarray(random_pixels(30, 30)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"^has more than 200 pixels, which could fill the memory; make it smaller$"):
        square_pixels(content, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    with warnings.catch_warnings(record=True) as heard, quiet_pillow():
        assert square_pixels(content, 8, 3).shape == (3, 8, 8)
    assert not heard
    postscript = encode(Image.fromarray(random_pixels(8, 8)), "EPS")
    with pytest.raises(UnidentifiedImageError):
        square_pixels(postscript, 8, 3)


def test_pipes_and_folders_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, kind in ((tmp_path / "pipe.png", "pipe"), (tmp_path, "folder"), (Path("/dev/zero"), "device")):
        with pytest.raises(ValueError, match=rf"{path} must be a plain file, got a {kind}; name a file"):
            square_pixels(path, 8, 3)


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
