"""Images from found noises beside images from random ones, and whether the former are nearer to the target.

After section 6 of P2 (*First-step inference in diffusion models learns image de-whitening*).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

from probediff.editing.models import Sampler
from probediff.editing.noises import FoundNoises
from probediff.measures.similarity import ssim
from probediff.noise import seeded_noise


@dataclass(frozen=True, eq=False)
class Variations:
    """Images of one model from K found and from K random noises for each of B targets.

    Attributes:
        found: (B, K, c, h, w) pixels in [-1, 1].
        random: (B, K, c, h, w).
        numbers: name -> kind of noise -> (B, K): ``distance``, L2 to the target, and ``ssim``; of the noises ``found``
            for the target, of ``random`` ones, and of those found for ``another`` target (with two targets or more),
            the null that shares all with found noises but the target.
    """

    found: Tensor
    random: Tensor
    numbers: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class PairedComparison:
    """A number of found noises against that of others, over targets; a target's is the mean over its chains.

    Attributes:
        found: mean.
        others: mean.
        share_lower: of the targets whose number is lower with the found noises.
        p_value: of Wilcoxon's signed-rank test, two-sided; None for a single target, or where nothing differs.
    """

    found: float
    others: float
    share_lower: float
    p_value: float | None


def vary_noises(sampler: Sampler, noises: FoundNoises, noise_seed: int) -> Variations:
    """Images of a model from found noises and from as many random ones.

    Raises:
        ValueError: noises or targets of another size than the model's.
    """
    shape = sampler.model.probe.image_shape
    if tuple(noises.noise.shape[2:]) != tuple(shape):
        raise ValueError(
            f"the noises of {sampler.model.name} must be {tuple(shape)}, got {tuple(noises.noise.shape[2:])}; search "
            "them with this model (`probediff search-noise --model`)"
        )
    if tuple(noises.images.shape[1:]) != (pixels := sampler.model.probe.pixel_shape):
        raise ValueError(
            f"the targets must have the size of the images of {sampler.model.name}, {pixels}, got "
            f"{tuple(noises.images.shape[1:])}; search with this model (`probediff search-noise --model`)"
        )
    num, chains = noises.noise.shape[:2]
    drawn = seeded_noise(noise_seed, range(num * chains), shape)
    found, random = sampler.images(noises.noise.flatten(0, 1)), sampler.images(drawn)
    found, random = (images.unflatten(0, (num, chains)) for images in (found, random))
    kinds = {"found": likeness(found, noises.images), "random": likeness(random, noises.images)}
    if num > 1:
        kinds["another"] = likeness(found.roll(1, dims=0), noises.images)
    numbers = {name: {kind: values[name] for kind, values in kinds.items()} for name in kinds["found"]}
    return Variations(found, random, numbers)


def likeness(others: Tensor, images: Tensor) -> dict[str, Tensor]:
    """``distance`` (L2) and ``ssim``, (B, K) float64 each, of images (B, K, c, h, w) to (B, c, h, w)."""
    repeated = images[:, None].expand_as(others).flatten(0, 1)
    flat = others.flatten(0, 1)
    distance = (flat.double() - repeated.double()).flatten(1).norm(dim=1)
    return {"distance": distance.reshape(others.shape[:2]), "ssim": ssim(flat, repeated).reshape(others.shape[:2])}


def compare_paired(found: Tensor, others: Tensor) -> PairedComparison:
    """Two numbers (B, K) of the same B targets."""
    a, b = (values.mean(dim=1).numpy() for values in (found, others))
    is_testable = len(a) > 1 and bool(np.any(a != b))
    p_value = float(stats.wilcoxon(a, b).pvalue) if is_testable else None
    return PairedComparison(float(a.mean()), float(b.mean()), float((a < b).mean()), p_value)
