"""Small sources of images and what preparing them gives."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from probediff.prepare.images import prepare_images


def pixels(seed: int, height: int = 12, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_source(folder: Path, num_images: int = 20) -> Path:
    """Four classes of images; one image is grey, one file is broken, one image is too small, one file no image."""
    for index in range(num_images):
        path = folder / f"n{index % 4}" / f"n{index % 4}_{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(index)).save(path)
    Image.fromarray(pixels(1)).convert("L").save(folder / "n1" / "n1_grey.JPEG")
    Image.fromarray(pixels(1, 7, 30)).save(folder / "n2" / "n2_small.png")
    (folder / "n0" / "n0_broken.JPEG").write_text("no image")
    (folder / "n3" / "notes.txt").write_text("no image")
    return folder


def prepared(source: Path, out: Path, num_workers: int = 2) -> Path:
    prepare_images(source, out, 8, num_workers, images_per_shard=3)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
