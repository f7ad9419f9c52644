"""From an image file to a square of bytes; needs Pillow and NumPy only."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from probediff.files import open_plain_file

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
#: What files are read as, whatever their names: for some formats Pillow starts other programs.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "JPEG2000")
BACKGROUND = "white"
# Part of the identity of caches and prepared sets: raise it when the decoding below changes, so that old ones are not
# taken for new ones.
DECODING_VERSION = 2
#: What is done to a file, in words, for the conventions of numbers that depend on it.
DECODING: dict[str, int | str] = {
    "version": DECODING_VERSION,
    "exif_orientation": "followed",
    "alpha": f"on {BACKGROUND}",
    "resize": "box halvings, bicubic, centre crop",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def square_pixels(file: Path | IO[bytes], image_size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Decode one image file to a square; see `resize_and_crop`.

    The image is turned as its EXIF orientation says, and lies on white where it is transparent. Of several frames or
    pages the first one counts.

    Args:
        file: its path or its bytes.
        image_size: height and width in pixels.
        channels: 3 for RGB, 1 for grey, whatever the file has.

    Returns:
        (C, image_size, image_size).

    Raises:
        ValueError: The image has more than 8 bits a channel, is smaller than ``image_size``, or so large that it may
            be made to fill the memory; or the path is that of no plain file.
        OSError: The file is damaged (Pillow's decoders raise further classes too).
    """
    if isinstance(file, Path):
        with open_plain_file(file) as content:
            return square_pixels(content, image_size, channels)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"has more than {limit:,} pixels, which could fill the memory; make it smaller") from error
    with image:
        if image.mode[0] in "IF":
            raise ValueError(f"has mode {image.mode}, more than 8 bits a channel; convert it to 8 bits")
        upright = _upright(image)
        if min(upright.size) < image_size:
            width, height = upright.size
            raise ValueError(f"is {width} x {height} pixels, smaller than image_size {image_size}")
        square = resize_and_crop(_opaque(upright).convert("RGB" if channels == 3 else "L"), image_size)
    return np.asarray(square).reshape(image_size, image_size, channels).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """The image as its camera was held."""
    image.load()  # a PNG may have its EXIF data behind the pixels; of a TIFF this turns the pixels already
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data raise anything, and say nothing
        turn = None
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image.Image) -> Image.Image:
    """The image on the background, where it has transparent parts."""
    if not image.has_transparency_data:
        return image
    image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    opaque = Image.new("RGB", image.size, BACKGROUND)
    opaque.paste(image, mask=image)
    return opaque


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings, which name no file: of odd metadata in photographs, and of large ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def resize_and_crop(image: Image.Image, image_size: int) -> Image.Image:
    """Resize the shorter side to ``image_size`` pixels and crop the centre, as Nichol & Dhariwal (2021) prepare images.

    The image is halved by box averages while its shorter side is at least twice the target, because one bicubic step
    from far above would alias; a bicubic step does the rest.
    """
    while min(image.size) >= 2 * image_size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = image_size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def failure_reason(error: Exception) -> str:
    """Why an image could not be decoded, in one line that is the same on every machine: no path, no address."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify image file"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split())) or type(error).__name__
