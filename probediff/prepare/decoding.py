"""From an image file to a square of bytes; needs Pillow and NumPy only."""

import re
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Part of the identity of caches and prepared sets: raise it when the decoding below changes, so that old ones are not
# taken for new ones.
DECODING_VERSION = 1
#: What is done to a file, in words, for the conventions of numbers that depend on it.
DECODING: dict[str, int | str] = {
    "version": DECODING_VERSION,
    "exif_orientation": "not followed",
    "alpha": "left out",
    "resize": "box halvings, bicubic, centre crop",
}


def square_pixels(file: Path | IO[bytes], image_size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Decode one image file to a square; see `resize_and_crop`.

    Args:
        file: its path or its bytes; orientation tags are not followed, transparency is left out.
        image_size: height and width in pixels.
        channels: 3 for RGB, 1 for grey, whatever the file has.

    Returns:
        (C, image_size, image_size).

    Raises:
        ValueError: The image has more than 8 bits a channel or is smaller than ``image_size``.
        OSError: The file is damaged (Pillow's decoders raise further classes too).
    """
    with Image.open(file) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"has mode {image.mode}, more than 8 bits a channel; convert it to 8 bits")
        if min(image.size) < image_size:
            width, height = image.size
            raise ValueError(f"is {width} x {height} pixels, smaller than image_size {image_size}")
        square = resize_and_crop(image.convert("RGB" if channels == 3 else "L"), image_size)
    return np.asarray(square).reshape(image_size, image_size, channels).transpose(2, 0, 1)


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
