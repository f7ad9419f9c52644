"""Several exact denoisers in one option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probediff.models.baseline import RunImages
from probediff.models.exact import ExactModel
from probediff.models.exact_list import read_denoisers


@pytest.fixture(scope="module")
def images(finished: Path) -> RunImages:
    return RunImages.of(finished, None, False)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("h=0,h=0.40,h=1", ["h=0,images=500", "h=0.4,images=500", "h=1"]),
        ("nearest, local", ["nearest,images=500", "local,images=500"]),
        ("denoiser=local,patch_size=3,images=20,h=0.4", ["local,patch_size=3,images=20", "h=0.4,images=500"]),
        ("images=20", None),
        ("h=0.4,images=20,dropped_weight=1e-6", ["h=0.4,dropped_weight=1e-06,images=20"]),
        (
            "smoothed_empirical,dropped_weight=1e-6,h=0.4,h=0",
            ["h=0.4,dropped_weight=1e-06,images=500", "h=0,images=500"],
        ),
        (
            "equivariant,border=zeros,images=30,equivariant",
            ["equivariant,border=zeros,images=30", "equivariant,images=500"],
        ),
        # Of mean and covariance of all images, and the same twice.
        ("wiener,h=1,images=20,h=1,images=40", ["wiener", "h=1"]),
    ],
)
def test_a_list_names_each_with_its_options(images: RunImages, text: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(ValueError, match="--denoisers must list h=H"):
            read_denoisers(text, images, 500)
        return
    found = read_denoisers(text, images, 500)
    assert [exact.name for exact in found] == [f"exact-{name}" for name in names]
    # What they are called is a list of them again.
    assert read_denoisers(",".join(names), images, 1797) == found


def test_more_images_than_there_are_means_all_unless_they_are_typed(images: RunImages) -> None:
    assert read_denoisers("h=0.4", images, 5000) == [ExactModel.parse(f"exact:{images.run},h=0.4")]
    with pytest.raises(ValueError, match=r"images must lie in 2..1797.*got 1798"):
        read_denoisers("h=0.4,images=1798", images, 500)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "with commas between, got ''"),
        ("locall", "got 'locall'"),
        ("h=0.4,,local", "got ''"),
        ("local,h=2", "h must lie in [0, 1], got 2.0"),
        ("local,border=zeros", "must be among denoiser, images, schedule, patch_size, got 'border'"),
        ("smoothed_empirical", "must say which exact denoiser, got none"),
        ("denoiser=network", "got 'network'"),
    ],
)
def test_what_names_none_is_refused_in_one_line(images: RunImages, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_denoisers(text, images, 500)
    assert "\n" not in str(error.value)


def test_a_part_is_told_from_others(images: RunImages) -> None:
    digests = {images.digest, images.part(20, "images").digest, images.part(30, "images").digest}
    assert len(digests) == 3
    assert images.part(20, "images").digest == RunImages.of(images.run, 20, False).digest
    assert images.part(20, "images").every() is images
