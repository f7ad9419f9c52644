"""The analytic denoisers against their authors' code, whose numbers `make_golden_analytic` recorded.

Where that code departs from its formula, the formula changed in the same way gives its numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from probediff.denoisers import analytic_denoiser
from probediff.schedule import NoiseSchedule
from tests.reference import analytic_reference as formulas
from tests.reference.golden_inputs import GOLDEN
from tests.reference.make_golden_analytic import LEVELS, SMALL_BATCH, TINY_LEVEL, query, training_images

THEIRS = {name: image.double().numpy() for name, image in load_file(GOLDEN / "analytic.safetensors").items()}
IMAGES = training_images()
BATCHES = [part.numpy() for part in IMAGES.split(SMALL_BATCH)]
TOLERANCE = 1e-5

#: Golden case -> our kind and its options.
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "wiener/": ("wiener", {}),
    "optimal/": ("optimal", {}),
    "optimal/IdealScoreModule": ("optimal", {}),
    "pca_locality/": ("pca_locality", {"mask_threshold": 0.05}),
    **{f"local/{size}": ("local", {"patch_size": size}) for size in (3, 5, 9)},
    **{f"circular/{size}": ("equivariant", {"patch_size": size}) for size in (3, 7)},
    **{f"zeros/{size}": ("equivariant", {"patch_size": size, "border": "zeros"}) for size in (3, 5, 9)},
    "zeros/3 in batches of 16": ("equivariant", {"patch_size": 3, "border": "zeros"}),
}


def our_image(kind: str, level: float, count: int = 1, **options: Any) -> np.ndarray:
    schedule = NoiseSchedule(torch.tensor([1 - level, 0.5], dtype=torch.float64))
    model = analytic_denoiser(kind, IMAGES, schedule, **options)
    image: np.ndarray = model.predict(query(level, count), torch.zeros(count, dtype=torch.int64))[0].squeeze(0).numpy()
    return image


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def key(level: float) -> str:
    return f"{10_000 * level:.0f}"


@pytest.mark.parametrize("case", SAME)
def test_equals_the_authors_code(case: str) -> None:
    kind, options = SAME[case]
    for level in LEVELS:
        assert distance(our_image(kind, level, **options), THEIRS[f"{case}/{key(level)}"]) < TOLERANCE, level


def test_their_nearest_image_is_compared_unscaled() -> None:
    differs = []
    for level in LEVELS:
        theirs, x = THEIRS[f"nearest//{key(level)}"], query(level)[0].numpy()
        assert distance(theirs, formulas.nearest(x, level, IMAGES.numpy(), is_scaled=False)) < TOLERANCE
        differs.append(distance(theirs, our_image("nearest", level)) > TOLERANCE)
    assert differs == [False, False, False, True]


def test_their_optimal_denoiser_keeps_the_nearest_only() -> None:
    for level in LEVELS:
        theirs, x = THEIRS[f"optimal/num_neighbors 8/{key(level)}"], query(level)[0].numpy()
        assert distance(theirs, formulas.optimal(x, level, IMAGES.numpy(), num_neighbors=8)) < TOLERANCE
    assert distance(theirs, our_image("optimal", LEVELS[-1])) > 0.1


def test_their_pca_locality_averages_the_means_of_loader_batches() -> None:
    for level in LEVELS:
        theirs, x = THEIRS[f"pca_locality/batches of 16/{key(level)}"], query(level)[0].numpy()
        mask = formulas.pca_mask(level, IMAGES.numpy(), 0.05)
        assert distance(theirs, formulas.pca_locality(x, level, IMAGES.numpy(), mask, BATCHES)) < TOLERANCE
        assert distance(theirs, our_image("pca_locality", level)) > 0.1


def test_their_pca_locality_takes_every_value_as_constant_at_a_tiny_alpha_bar() -> None:
    theirs, x = THEIRS["pca_locality//tiny"], query(TINY_LEVEL)[0].numpy()
    mask = formulas.pca_mask(TINY_LEVEL, IMAGES.numpy(), 0.05, constant=1e-6)
    assert np.array_equal(mask, np.eye(len(mask)))
    assert distance(theirs, formulas.pca_locality(x, TINY_LEVEL, IMAGES.numpy(), mask)) < TOLERANCE
    assert distance(theirs, our_image("pca_locality", TINY_LEVEL)) > 10 * TOLERANCE


def test_their_circular_machine_weighs_loader_batches_alike() -> None:
    for level in LEVELS:
        theirs, x = THEIRS[f"circular/3 in batches of 16/{key(level)}"], query(level)[0].numpy()
        assert distance(theirs, formulas.equivariant(x, level, BATCHES, 3, "circular")) < TOLERANCE
        assert distance(theirs, our_image("equivariant", level, patch_size=3)) > 0.01


def test_their_local_machine_mixes_the_rows_of_a_batch_with_channels() -> None:
    # Of three images of three channels, channel c of each is divided by the sum of weights of row c.
    level, x = 0.5, query(0.5, 3).numpy()
    exponents = np.stack([formulas.local_exponents(row, level, IMAGES.numpy(), 5) for row in x])
    log_sums = np.log(np.exp(exponents).sum(1))
    image = our_image("local", level, count=3, patch_size=5)
    scale = math.sqrt(level)
    mixed = (x - scale * image) * np.exp(log_sums[:, None] - log_sums[None])
    theirs = THEIRS["local/5 of three/5000"]
    assert distance((x - mixed) / scale, theirs) < TOLERANCE * max(1, np.abs(theirs).max())
    assert distance(image, theirs) > 0.1
