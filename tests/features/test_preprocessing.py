"""Preprocessing of the feature networks against torchvision on Pillow images, and what images they refuse."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from probediff.features.networks import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    FeatureNetwork,
    Preprocessing,
    extract,
)


def images(count: int, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    """Smooth and rough images (N, C, H, W) in [-1, 1] whose values are bytes."""
    rng = np.random.default_rng(0)
    waves = np.sin(np.linspace(0, 9, height)[:, None] * rng.uniform(0.5, 1, (count, channels, 1, 1)) + np.arange(width))
    pixels = np.rint(np.clip(127.5 + 90 * waves + rng.normal(0, 20, waves.shape), 0, 255))
    return torch.from_numpy(pixels).float() / 127.5 - 1


def pillow(image: torch.Tensor) -> Image.Image:
    pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def torchvision_pipeline(expected: Preprocessing) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Lambda(lambda image: image.convert("RGB")),
            transforms.Resize(expected.resize, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(expected.crop),
            transforms.ToTensor(),
            transforms.Normalize(expected.mean, expected.std),
        ]
    )


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3), (8, 8, 1), (300, 410, 3), (512, 257, 1), (33, 32, 3)])
@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD), Preprocessing(224, 224, CLIP_MEAN, CLIP_STD)],
)
def test_preprocessing_equals_torchvision_on_pillow(preprocessing: Preprocessing, shape: tuple[int, int, int]) -> None:
    batch = images(2, *shape)
    expected = torch.stack([torchvision_pipeline(preprocessing)(pillow(image)) for image in batch])
    actual = preprocessing(batch)
    assert actual.shape == expected.shape == (2, 3, 224, 224)
    # Pillow rounds to bytes after each of its two passes, in units of std.
    assert float((actual - expected).abs().max()) < 1.6 / 255 / min(preprocessing.std)
    assert float((actual - expected).abs().mean()) < 0.4 / 255 / min(preprocessing.std)


def test_values_out_of_range_are_clipped() -> None:
    preprocessing = Preprocessing(16, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    wild = images(1, 16, 16) * 3
    torch.testing.assert_close(preprocessing(wild), preprocessing(wild.clamp(-1, 1)))
    overshoot = Preprocessing(64, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(wild)
    assert (overshoot.min(), overshoot.max()) == (0, 1)


def test_wrong_images() -> None:
    network = FeatureNetwork("flat", torch.nn.Flatten(), Preprocessing(4, 4, IMAGENET_MEAN, IMAGENET_STD))
    for shape in [(3, 4, 4), (0, 3, 4, 4), (1, 2, 4, 4)]:
        with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\) with C = 1 or 3"):
            extract(network, torch.zeros(shape))
    with pytest.raises(TypeError, match=r"images must be floating point in \[-1, 1\], got torch.uint8; scale bytes"):
        network(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        extract(network, torch.zeros(1, 3, 4, 4), batch_size=0)
