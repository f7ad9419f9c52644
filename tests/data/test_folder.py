"""Folders of images: what is decoded, what is refused, and when the cache is used."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probediff.data import ImageFolder, ImageNet64
from probediff.data.base import cache_folder


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


def a_module(folder: Path, image_size: int = 8, **arguments: int) -> ImageFolder:
    return ImageFolder(str(folder), image_size, cache_dir=str(folder.parent / "cache"), **arguments)


def loaded(module: ImageFolder) -> np.ndarray:
    module.prepare_data()
    module.setup("fit")
    return module.images


def test_images_are_found_in_order_and_decoded(folder: Path) -> None:
    names = ["b/2.png", "a.PNG", "b/10.bmp", "c/d/e.webp"]
    for seed, name in enumerate(names):
        save(folder / name, random_pixels(8, 8, seed))
    (folder / "notes.txt").write_text("no image")
    module = a_module(folder)
    images = loaded(module)
    assert [file.relative_path for file in module.files] == ["a.PNG", "b/10.bmp", "b/2.png", "c/d/e.webp"]
    expected = np.stack([random_pixels(8, 8, seed).transpose(2, 0, 1) for seed in (1, 2, 0)])
    np.testing.assert_array_equal(images[:3], expected)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_jpegs_grey_palette_and_alpha_become_rgb(folder: Path) -> None:
    pixels = np.full((8, 8, 3), (204, 102, 51), np.uint8)
    for name, mode in {"1.JPEG": "L", "2.jpg": "RGB", "3.png": "P", "4.png": "RGBA", "5.jpg": "CMYK"}.items():
        save(folder / name, pixels, mode)
    colours = loaded(a_module(folder))[:, :, 4, 4].astype(int)
    grey = round(0.299 * 204 + 0.587 * 102 + 0.114 * 51)
    np.testing.assert_allclose(colours, [[grey] * 3] + [[204, 102, 51]] * 4, atol=3)


def test_one_channel(folder: Path) -> None:
    save(folder / "a.png", np.full((8, 8, 3), (200, 100, 50), np.uint8))
    images = loaded(a_module(folder, channels=1))
    assert images.shape == (1, 1, 8, 8)
    assert (images == 124).all()


def test_the_cache_is_used_until_something_changes(folder: Path) -> None:
    save(folder / "a.png", random_pixels(8, 8))
    module = a_module(folder)
    loaded(module)
    written = module.cache_file.stat().st_mtime_ns
    loaded(a_module(folder))
    assert module.cache_file.stat().st_mtime_ns == written
    save(folder / "b.png", random_pixels(8, 8, 1))
    assert len(loaded(a_module(folder))) == 2
    os.utime(folder / "b.png", ns=(0, 0))
    changed = {a_module(folder).cache_file, a_module(folder, 4).cache_file, a_module(folder, channels=1).cache_file}
    assert len(changed | {module.cache_file}) == 4
    assert not any(file.exists() for file in changed)


def test_more_files_than_one_task_keep_their_order(folder: Path) -> None:
    for index in range(150):
        save(folder / f"{index:03}.bmp", np.full((4, 4, 3), index, np.uint8))
    np.testing.assert_array_equal(loaded(a_module(folder, 4))[:, 0, 0, 0], np.arange(150))


def test_unusable_files_are_reported_together_and_leave_nothing(folder: Path) -> None:
    save(folder / "good.png", random_pixels(8, 8))
    save(folder / "small.png", random_pixels(7, 30))
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(folder / "deep.png")
    whole = io.BytesIO()
    Image.fromarray(random_pixels(64, 64)).save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (folder / "a\nb\x1b[2J.png").write_text("no image")
    for index in range(8):
        (folder / f"text{index}.png").write_text("no image")
    module = a_module(folder)
    with pytest.raises(ValueError) as caught:
        module.prepare_data()
    lines = str(caught.value).splitlines()
    assert lines[0] == f"path: 12 of 13 images in {folder} cannot be used:"
    names = [line.split(":")[0].strip() for line in lines[1:5]]
    assert names == [r"a\nb\x1b[2J.png", "cut.jpg", "deep.png", "small.png"]
    assert "truncated" in lines[2]
    assert "more than 8 bits a channel; convert it to 8 bits" in lines[3]
    assert "is 30 x 7 pixels, smaller than image_size 8" in lines[4]
    assert "cannot identify image file" in lines[5]
    assert len(lines) == 13
    assert lines[11] == "  and 2 more"
    assert lines[12].startswith("remove or repair them")
    assert list((folder.parent / "cache").iterdir()) == []


def test_missing_and_empty_folders(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must be a folder of images \(.bmp, .jpeg, .*no folder"):
        a_module(folder).prepare_data()
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(
        FileNotFoundError, match=r"at least one image \(.bmp, .jpeg, .jpg, .png, .webp, any case\), got"
    ):
        a_module(folder).prepare_data()
    save(folder / "figure.png", random_pixels(8, 8))
    (folder / "records.jsonl").touch()
    with pytest.raises(ValueError, match=r"must be a folder of images, got the run .*whose images are figures; name"):
        a_module(folder).prepare_data()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        ImageFolder("a", 0)
    with pytest.raises(ValueError, match=r"channels must be 3 \(RGB\) or 1 \(grey\), got 4"):
        ImageFolder("a", 8, channels=4)


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "probediff"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ImageNet64("a").cache_dir == tmp_path / "home" / ".cache" / "probediff"


def test_tiny_imagenet(tmp_path: Path) -> None:
    """Real photographs, greyscale ones among them: at their own size nothing but the decoder touches them."""
    root = os.environ.get("PROBEDIFF_DATA")
    archive = Path(root or "") / "imagenet64" / "tiny_imagenet_train_100_per_class.tar.xz"
    if not root or not archive.exists():
        pytest.skip("PROBEDIFF_DATA names no folder that holds imagenet64/tiny_imagenet_train_100_per_class.tar.xz")
    with tarfile.open(archive) as tar:
        for index, member in enumerate(tar):
            if index % 60 == 1 and member.isfile():
                tar.extract(member, tmp_path / "images", filter="data")
    data = ImageNet64(str(tmp_path / "images"), cache_dir=str(tmp_path / "cache"))
    images = loaded(data)
    originals = [Image.open(data.path / file.relative_path) for file in data.files]
    assert images.shape == (len(originals), 3, 64, 64)
    assert len(originals) > 300
    assert {"L", "RGB"} <= {image.mode for image in originals}
    for index in range(len(originals)):
        np.testing.assert_array_equal(images[index].transpose(1, 2, 0), np.asarray(originals[index].convert("RGB")))
