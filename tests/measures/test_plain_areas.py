"""The inversion error inside and outside plain areas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import plain_area_errors, plain_areas
from probediff.measures.paper_compat import plain_areas_open_border
from tests.reference.errors_reference import jackknife_by_hand
from tests.reference.latents_reference import plain_by_loops


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Steps of 1/64 around the threshold, so that both kinds of pixels occur."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).float() / 64


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5), st.integers(2, 5)),
    seed=st.integers(0, 999),
)
def test_against_loops(shape: tuple[int, int, int, int], seed: int) -> None:
    x_0 = images(*shape, seed=seed)
    for found, open_border in ((plain_areas(x_0), False), (plain_areas_open_border(x_0), True)):
        np.testing.assert_array_equal(found, plain_by_loops(x_0.double().numpy(), 0.025, open_border))


def test_error_is_split_by_the_image() -> None:
    x_0 = torch.zeros(2, 1, 4, 6)
    x_0[0, :, :, 3:] = torch.tensor([0.5, -0.5, 0.5])
    x_0[1, :, :, :3] = torch.tensor([0.5, -0.5, 0.5])
    plain = torch.zeros(2, 4, 6, dtype=torch.bool)
    plain[0, :, :2] = True
    plain[1, :, 3:] = True
    assert torch.equal(plain_areas(x_0), plain)
    noise = torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    error = torch.where(plain, 0.75, 0.25)[:, None]
    found = plain_area_errors(noise, x_0, noise + error * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
    assert found.inside == pytest.approx(0.75)
    assert found.outside == pytest.approx(0.25)
    assert found.plain_share == pytest.approx(20 / 48)
    # The plain areas of the two images do not overlap.
    assert found.inside_null == pytest.approx(0.25)
    assert found.outside_null == pytest.approx((20 * 0.75 + 8 * 0.25) / 28)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_unrelated_errors_make_no_difference() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(300, 3, 8, 8, generator=generator)
    found = plain_area_errors(noise, images(300, 3, 8, 8), noise + torch.randn(300, 3, 8, 8, generator=generator))
    assert 0.005 < found.plain_share < 0.5
    expected = pytest.approx(math.sqrt(2 / math.pi), abs=0.02)
    assert (found.inside, found.outside, found.inside_null, found.outside_null) == (expected,) * 4


def test_no_pixel_of_a_kind_is_nan() -> None:
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    flat = plain_area_errors(noise, torch.zeros(3, 1, 4, 4), noise + 1)
    assert flat.plain_share == 1
    assert flat.inside == pytest.approx(1)
    assert math.isnan(flat.outside) and math.isnan(flat.outside_null)
    busy = plain_area_errors(noise, torch.arange(4.0).expand(3, 1, 4, 4) / 4, noise + 1)
    assert busy.plain_share == 0
    assert math.isnan(busy.inside) and busy.outside == pytest.approx(1)


def split_without(image: int, error: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """The numbers without one image, from all pixels of the others."""
    kept = [i for i in range(len(plain)) if i != image]
    inside, outside = (float(error[kept][chosen].mean()) for chosen in (plain[kept], ~plain[kept]))
    return {"inside": inside, "outside": outside, "ratio": inside / outside}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(num=st.integers(3, 25), seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_errors_leave_out_one_image_at_a_time(num: int, seed: int, dtype: torch.dtype) -> None:
    x_0 = images(num, 1, 12, 12, seed=seed).to(dtype)
    noise, latent = (
        torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed + k)).to(dtype) for k in (1, 2)
    )
    latent = noise + latent * (1 + plain_areas(x_0)[:, None])
    found, plain = plain_area_errors(noise, x_0, latent), plain_areas(x_0).numpy()
    error = (latent - noise).abs().double().mean(dim=1).numpy()
    for end, errors in (("", error), ("_null", np.roll(error, -1, axis=0))):
        rows = [split_without(image, errors, plain) for image in range(num)]
        for name in rows[0]:
            expected = jackknife_by_hand([row[name] for row in rows])
            assert found.standard_errors[f"{name}{end}"] == pytest.approx(expected, rel=1e-6)
        assert getattr(found, f"ratio{end}") == pytest.approx(errors[plain].mean() / errors[~plain].mean())
    shares = plain.mean(axis=(1, 2))
    assert found.standard_errors["plain_share"] == pytest.approx(shares.std(ddof=1) / math.sqrt(num))


@pytest.mark.parametrize("num", [5, 20, 70, 103])
def test_a_kind_of_pixel_that_a_single_image_has_has_no_error(num: int) -> None:
    """Without that image there is none: the mean of nothing is no number, and nothing is divided by rounding."""
    x_0 = torch.cat([torch.arange(4.0).expand(num - 1, 1, 4, 4) / 4, torch.zeros(1, 1, 4, 4)])
    noise = normal(num, 1, 4, 4, seed=2)
    found = plain_area_errors(noise, x_0, noise + normal(num, 1, 4, 4, seed=3))
    assert not math.isnan(found.inside) and not math.isnan(found.ratio)
    assert found.standard_errors.keys() == {"outside", "outside_null", "plain_share"}


@pytest.mark.parametrize(
    ("shape", "threshold", "message"),
    [
        ((3, 12), 0.025, r"x_0 must be \(N, C, H, W\) with H and W at least 2, got shape \(3, 12\)"),
        ((3, 1, 1, 5), 0.025, r"got shape \(3, 1, 1, 5\)"),
        ((3, 1, 4, 4), 0.0, "threshold must be positive and finite, got 0.0"),
        ((3, 1, 4, 4), math.inf, "got inf"),
    ],
)
def test_bad_images_are_refused(shape: tuple[int, ...], threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_areas(torch.zeros(shape), threshold)


def test_bad_sets_are_refused() -> None:
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="noise and x_0 and latent must agree in shape"):
        plain_area_errors(x, x, x[..., :3])
    with pytest.raises(ValueError, match="x_0 must hold at least 2 samples for the null, got 1"):
        plain_area_errors(x[:1], x[:1], x[:1])
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\), got shape \(2, 3\)"):
        plain_areas_open_border(torch.zeros(2, 3))
