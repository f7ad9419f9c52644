"""The analytic denoisers against loops over pixels and images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import probediff.denoisers.filtered as filtered
from probediff.ddim import ddim_sample
from probediff.denoisers import ANALYTIC_OPTIONS, GaussianDenoiser, SmoothedEmpiricalDenoiser, analytic_denoiser
from probediff.denoisers.patch_sizes import patch_size_by_timestep
from probediff.noise import seeded_noise
from probediff.schedule import NoiseSchedule
from tests.reference.analytic_reference import FORMULAS, equivariant, local
from tests.reference.golden_inputs import hashed_normal, smooth_images

SCHEDULE = NoiseSchedule.linear(1000)
IMAGES = smooth_images("analytic", 7, 8)
#: alpha_bar from 0.99 to 4e-5.
TIMESTEPS = torch.tensor([60, 300, 600, 999])
OPTIONS: dict[str, dict[str, Any]] = {
    "local": {"patch_size": 5},
    "equivariant": {"patch_size": 3},
    "equivariant_zeros": {"patch_size": 5, "border": "zeros"},
    "pca_locality": {"mask_threshold": 0.05},
}
KINDS = list(FORMULAS)


def make(name: str, images: Tensor = IMAGES, mirrored: bool = False) -> torch.nn.Module:
    return analytic_denoiser(name.removesuffix("_zeros"), images, SCHEDULE, mirrored, **OPTIONS.get(name, {}))


def noised(timesteps: Tensor, images: Tensor, name: str = "x") -> Tensor:
    a = SCHEDULE.at("alpha_bar", timesteps, 4)
    return a.sqrt() * images[: len(timesteps)] + (1 - a).sqrt() * hashed_normal(
        name, (len(timesteps), *images.shape[1:])
    )


X = noised(TIMESTEPS, smooth_images("others", 4, 8))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_equals_its_formula(name: str, mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few numbers at once, so that the rows and the images come in several parts.
    monkeypatch.setattr(filtered, "_WORKING_NUMBERS", 25_000)
    image, eps = make(name, mirrored=mirrored).predict(X, TIMESTEPS)
    all_images = torch.cat([IMAGES, IMAGES.flip(-1)]) if mirrored else IMAGES
    if mirrored and name in ("wiener", "pca_locality"):
        pytest.skip("the divisor differs: see test_mirrored_moments")
    for x, timestep, row in zip(X, TIMESTEPS.tolist(), image, strict=True):
        expected = FORMULAS[name](x.numpy(), float(SCHEDULE.alpha_bar[timestep]), all_images.numpy())
        np.testing.assert_allclose(row.numpy(), expected, rtol=0, atol=1e-10)
    a = SCHEDULE.at("alpha_bar", TIMESTEPS, 4)
    torch.testing.assert_close(a.sqrt() * image + (1 - a).sqrt() * eps, X, rtol=0, atol=1e-10)
    assert torch.equal(eps, make(name, mirrored=mirrored)(X, TIMESTEPS))
