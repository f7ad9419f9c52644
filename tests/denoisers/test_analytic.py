"""The analytic denoisers against loops over pixels and images."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import probediff.denoisers.filtered as filtered
from probediff.ddim import ddim_sample
from probediff.denoisers import ANALYTIC_OPTIONS, GaussianDenoiser, SmoothedEmpiricalDenoiser, analytic_denoiser
from probediff.denoisers.patch_sizes import CIFAR10_PATCH_SIZES, patch_size_by_timestep
from probediff.schedule import NoiseSchedule
from tests.reference.analytic_reference import FORMULAS
from tests.reference.golden_inputs import hashed_images, hashed_normal, smooth_images

SCHEDULE = NoiseSchedule.linear(1000)
IMAGES = smooth_images("analytic", 7, 8)
#: alpha_bar from 0.98 to 4e-5.
TIMESTEPS = torch.tensor([60, 300, 600, 999])
OPTION = {"local": 5, "circular": 3, "zeros": 5, "pca_locality": 0.05}
KINDS = list(FORMULAS)


def make(name: str, images: Tensor = IMAGES, mirrored: bool = False, option: Any = None) -> nn.Module:
    """By the name of its formula; ``circular`` and ``zeros`` are the borders of the equivariant machine."""
    option = OPTION.get(name) if option is None else option
    options: dict[str, Any] = {}
    if name in ("local", "circular", "zeros"):
        options["patch_size"] = option
    if name in ("circular", "zeros"):
        options["border"], name = name, "equivariant"
    if name == "pca_locality":
        options["mask_threshold"] = option
    return analytic_denoiser(name, images, SCHEDULE, mirrored, **options)


def noised(timesteps: Tensor, images: Tensor) -> Tensor:
    a = SCHEDULE.at("alpha_bar", timesteps, 4)
    return a.sqrt() * images + (1 - a).sqrt() * hashed_normal("noise", images.shape)


X = noised(TIMESTEPS, smooth_images("others", 4, 8))


def assert_formula(name: str, image: Tensor, x: Tensor, timesteps: Tensor, images: Tensor, mirrored: bool) -> None:
    everything = torch.cat([images, images.flip(-1)]) if mirrored else images
    for row, x_t, timestep in zip(image, x, timesteps.tolist(), strict=True):
        a = float(SCHEDULE.alpha_bar[timestep])
        expected = FORMULAS[name](x_t.numpy(), a, everything.numpy(), 1 + mirrored, OPTION.get(name))
        np.testing.assert_allclose(row.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_equals_its_formula(name: str, mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # So few numbers at once that rows and images come in several parts.
    monkeypatch.setattr(filtered, "_WORKING_NUMBERS", 10_000)
    model = make(name, mirrored=mirrored)
    image, eps = model.predict(X, TIMESTEPS)
    assert_formula(name, image, X, TIMESTEPS, IMAGES, mirrored)
    a = SCHEDULE.at("alpha_bar", TIMESTEPS, 4)
    torch.testing.assert_close(a.sqrt() * image + (1 - a).sqrt() * eps, X, rtol=0, atol=1e-10)
    assert torch.equal(eps, model(X, TIMESTEPS))
    flat_image, flat_eps = model.predict(X.flatten(1), TIMESTEPS)
    assert torch.equal(flat_image, image.flatten(1)) and torch.equal(flat_eps, eps.flatten(1))


@given(
    name=st.sampled_from(["local", "circular", "zeros"]),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(2, 6), st.integers(2, 6)),
    size=st.sampled_from([1, 3, 5, 7]),
    mirrored=st.booleans(),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_patches_of_any_size_on_images_of_any_shape(
    name: str, shape: tuple[int, int, int], size: int, mirrored: bool
) -> None:
    images, timesteps = hashed_images("any", (3, *shape)), torch.tensor([500, 100])
    x = noised(timesteps, hashed_images("x", (2, *shape)))
    if name == "circular" and size > min(shape[1:]):
        with pytest.raises(ValueError, match="patch_size must be at most"):
            make(name, images, mirrored, size)
        return
    image = make(name, images, mirrored, size).predict(x, timesteps)[0]
    everything = (torch.cat([images, images.flip(-1)]) if mirrored else images).numpy()
    for row, x_t, timestep in zip(image, x.numpy(), timesteps.tolist(), strict=True):
        expected = FORMULAS[name](x_t, float(SCHEDULE.alpha_bar[timestep]), everything, 1, size)
        np.testing.assert_allclose(row.numpy(), expected, rtol=0, atol=1e-10)


def test_the_ends_of_the_smoothed_family_are_optimal_and_wiener() -> None:
    images = smooth_images("analytic", 40, 4)
    x = noised(TIMESTEPS, smooth_images("others", 4, 4))
    for mirrored in (False, True):
        for name, bandwidth in (("optimal", 0.0), ("wiener", 1.0)):
            theirs = SmoothedEmpiricalDenoiser(images, bandwidth, SCHEDULE, mirrored).predict(x, TIMESTEPS)
            for ours, other in zip(make(name, images, mirrored).predict(x, TIMESTEPS), theirs, strict=True):
                torch.testing.assert_close(ours, other, rtol=0, atol=1e-9)
    gaussian = GaussianDenoiser.fit(images, SCHEDULE)(x, TIMESTEPS)
    torch.testing.assert_close(make("wiener", images)(x, TIMESTEPS), gaussian, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_single_precision_batches_and_copies(name: str) -> None:
    double, single = make(name), make(name, IMAGES.float())
    assert {buffer.dtype for buffer in single.buffers()} <= {torch.float32, torch.int64}
    expected = double.predict(X, TIMESTEPS)
    for model in (single, double.float(), copy.deepcopy(single)):
        for ours, right in zip(model.predict(X.float(), TIMESTEPS), expected, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), right, rtol=0, atol=2e-4)
    assert single(X, TIMESTEPS).dtype == torch.float64
    assert single(X[:0], TIMESTEPS[:0]).shape == (0, 3, 8, 8)
    alone = torch.cat([single(X[i : i + 1], TIMESTEPS[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, single(X, TIMESTEPS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_the_noise(name: str) -> None:
    model, x = make(name, mirrored=True), X[1:3]
    direction, weights = hashed_normal("direction", x.shape), hashed_normal("weights", x.shape)
    moved = [float((model(x + h * direction, TIMESTEPS[1:3]) * weights).sum()) for h in (1e-5, -1e-5)]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((model(leaf, TIMESTEPS[1:3]) * weights).sum(), leaf)
    assert float((gradient * direction).sum()) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-5, abs=1e-5)
    _, tangent = torch.func.jvp(lambda x: model(x, TIMESTEPS[1:3]), (x,), (direction,))
    assert float((tangent * weights).sum()) == pytest.approx(float((gradient * direction).sum()))


class LargestResult(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("name", [name for name in KINDS if name != "wiener"])
def test_working_memory_does_not_grow_with_the_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered, "_WORKING_NUMBERS", 20_000)
    model = make(name, smooth_images("analytic", 80, 8), mirrored=True)
    with LargestResult() as largest:
        model(X, TIMESTEPS)
    # The mask of pca_locality has D^2 numbers, one column more than patches have is for their squared lengths.
    bound = (3 * 8 * 8) ** 2 if name == "pca_locality" else 20_000 * 193 / 192
    assert 8_000 < largest.numbers <= bound


@pytest.mark.parametrize("name", KINDS)
def test_ddim_samples_look_like_the_data(name: str) -> None:
    images = smooth_images("analytic", 30, 8)
    model = make(name, images, option={"local": ((0, 3), (1, 7)), "circular": 3, "zeros": 3}.get(name))
    x = ddim_sample(model, SCHEDULE, hashed_normal("x_T", (6, 3, 8, 8)), 20, clip=False)
    assert bool(x.isfinite().all())
    # Neighbours differ less than independent values, for which this is 1; 0.12 in the data.
    assert float(x.diff(dim=-1).square().mean() / (2 * x.var())) < 0.4
    assert 0.4 < float(x.std() / images.std()) < 1.5
    if name != "wiener":  # a mean of training values
        assert float(images.min()) <= float(x.min()) and float(x.max()) <= float(images.max())
    if name in ("optimal", "nearest"):
        distance = torch.cdist(x.flatten(1), images.flatten(1)).amin(1)
        assert float(distance.max()) < 1e-6


def test_default_patches_follow_the_noise_level() -> None:
    sizes = patch_size_by_timestep(None, SCHEDULE, (32, 32))
    level = ((1 - SCHEDULE.alpha_bar) / SCHEDULE.alpha_bar).sqrt()
    for sigma, size in CIFAR10_PATCH_SIZES:
        assert int(sizes[level >= sigma][0]) == size
    assert bool((sizes.diff() >= 0).all()) and set(sizes.tolist()) == set(range(3, 19, 2))
    assert int(patch_size_by_timestep(None, SCHEDULE, (8, 9)).max()) == 7
    pairs = patch_size_by_timestep(((0.5, 1), (2, 9)), SCHEDULE, (8, 8))
    assert torch.equal(pairs == 9, level >= 2) and set(pairs.tolist()) == {1, 9}


@pytest.mark.parametrize("value", [0, 4, -3, True, 2.0, "5", (), ((1, 3), (1, 5)), ((-1, 3),), ((0, 4),), ((0,),)])
def test_patch_sizes_that_are_none(value: object) -> None:
    for kind in ("local", "equivariant"):
        with pytest.raises(ValueError, match=f"patch_size must be an odd number.* got {re.escape(repr(value))}"):
            analytic_denoiser(kind, IMAGES, SCHEDULE, patch_size=value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pca", {}, "denoiser must be one of wiener, optimal, nearest, local, equivariant, pca_locality, got 'pca'"),
        ("optimal", {"patch_size": 3}, "options of the denoiser optimal must be left out, got patch_size"),
        ("local", {"border": "zeros"}, "options of the denoiser local must be among patch_size, got border"),
        ("equivariant", {"border": "wrap"}, "border must be one of circular, zeros, got 'wrap'"),
        ("equivariant", {"patch_size": 9}, "patch_size must be at most 8 .* got 9: take a smaller one, or border='zer"),
        ("pca_locality", {"mask_threshold": 0}, r"mask_threshold must lie in \(0, 1\], got 0"),
        ("pca_locality", {"mask_threshold": float("nan")}, r"mask_threshold must lie in \(0, 1\], got nan"),
    ],
)
def test_bad_options_are_told(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analytic_denoiser(kind, IMAGES, SCHEDULE, **options)


@pytest.mark.parametrize("kind", ANALYTIC_OPTIONS)
def test_bad_images_and_queries_are_told(kind: str) -> None:
    with pytest.raises(TypeError, match="images must be floating point"):
        analytic_denoiser(kind, torch.zeros(3, 1, 4, 4, dtype=torch.uint8), SCHEDULE)
    with pytest.raises(ValueError, match=r"images must be .* N >= 2, got"):
        analytic_denoiser(kind, IMAGES[:1], SCHEDULE)
    with pytest.raises(ValueError, match="finite"):
        analytic_denoiser(kind, torch.full((3, 1, 4, 4), torch.nan), SCHEDULE)
    model = analytic_denoiser(kind, IMAGES, SCHEDULE)
    with pytest.raises(ValueError, match="x must be"):
        model(torch.zeros(2, 3, 8, 7), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="timestep must be"):
        model(X, TIMESTEPS[:3])


def test_the_page_has_every_kind_with_its_options() -> None:
    page = (Path(__file__).parents[2] / "docs" / "analytic_denoisers.md").read_text()
    for kind, options in ANALYTIC_OPTIONS.items():
        named = f" ({', '.join(f'`{option}`' for option in options)})" if options else ""
        assert f"\n| `{kind}`{named} |" in page
    for sigma, size in CIFAR10_PATCH_SIZES[2:]:
        assert re.search(rf"{sigma}\s+(on\s+)?{size}\b", page), sigma
