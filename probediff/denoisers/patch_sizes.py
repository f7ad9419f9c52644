"""Which patches local denoisers look at, by noise level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probediff.schedule import NoiseSchedule

#: One odd number of pixels, or (sigma, size) pairs: each size holds from its sigma = sqrt((1 - a) / a) upwards.
PatchSize = int | Sequence[tuple[float, int]]

#: Read from what Kamb & Ganguli calibrated against class-conditional networks on CIFAR-10, 32 x 32 (files
#: scales_CIFAR10_{ResNet_circular,ResNet_zeros,UNet_zeros}_conditional.pt of Kambm/convolutional_diffusion, commit
#: 6a87f3f): one size a step j = 0..19 at t = (j + 1) / 20 of their schedule, sigma = tan(pi t / 2.016), where
#: scales_calibration.py puts it. The median of the three networks, as steps: 3 3 3 3 5 5 5 5 7 7 7 9 9 11 11 13 13 15
#: 17 17.
CIFAR10_PATCH_SIZES: tuple[tuple[float, int], ...] = (
    (0.0, 3),
    (0.41, 5),
    (0.84, 7),
    (1.35, 9),
    (1.92, 11),
    (2.97, 13),
    (5.88, 15),
    (11.0, 17),
)


def patch_size_by_timestep(
    patch_size: PatchSize | None, schedule: NoiseSchedule, image_size: tuple[int, int], must_fit: bool = False
) -> Tensor:
    """Patch sizes (T,) int64, one a timestep.

    Args:
        patch_size: In pixels; None is `CIFAR10_PATCH_SIZES`, no larger than the image.
        schedule: Gives the noise levels.
        image_size: Height and width.
        must_fit: Whether a patch must not be larger than the image.

    Raises:
        ValueError: On sizes that are not odd, noise levels that do not ascend, or patches that do not fit.
    """
    side = min(image_size)
    if patch_size is None:
        pairs = [(sigma, min(size, side - 1 + side % 2)) for sigma, size in CIFAR10_PATCH_SIZES]
    else:
        pairs = [(0.0, patch_size)] if isinstance(patch_size, int) else _read_pairs(patch_size)
    sigmas, sizes = zip(*pairs, strict=True)
    is_odd = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 and size % 2 for size in sizes)
    ascends = all(math.isfinite(s) and s >= 0 for s in sigmas) and all(a < b for a, b in itertools.pairwise(sigmas))
    if not is_odd or not ascends:
        raise ValueError(
            f"patch_size must be an odd number of pixels, or (sigma, odd size) pairs of ascending sigma, got "
            f"{patch_size!r}: such as 5, or ((0, 3), (1, 7))"
        )
    if must_fit and max(sizes) > side:
        raise ValueError(
            f"patch_size must be at most {side} for images of {image_size[0]} x {image_size[1]} with a circular "
            f"border, got {max(sizes)}: take a smaller one, or border='zeros'"
        )
    level = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()
    index = torch.searchsorted(torch.tensor(sigmas, dtype=torch.float64), level, right=True) - 1
    return torch.tensor(sizes)[index.clamp(min=0)]


def _read_pairs(patch_size: object) -> list[tuple[float, int]]:
    """The pairs as they are, or one that `patch_size_by_timestep` refuses."""
    try:
        pairs = [(float(sigma), size) for sigma, size in patch_size]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return [(math.nan, 0)]
    return pairs or [(math.nan, 0)]
