"""The noise-sample-latent triangle."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import (
    TriangleAngles,
    angle_of_mean_cosine,
    most_probable_triangle,
    triangle_angles,
    triangle_distances,
)
from tests.reference.measures_reference import best_triangle_probability, triangle_angles_by_acos


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def three_sets(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise, x_0, rest = (normal(*shape, seed=seed, dtype=dtype) for seed in range(3))
    return noise, x_0, 0.6 * noise + 0.3 * rest + 0.1 * x_0


def stacked(angles: TriangleAngles) -> torch.Tensor:
    return torch.stack([angles.at_noise_deg, angles.at_image_deg, angles.at_latent_deg])


def planar(apex_deg: float, far: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A triangle whose angle at the image is known in closed form; image at the origin, sides 1 and `far`."""
    radians = math.radians(apex_deg)
    noise, x_0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    return noise, x_0, far * torch.tensor([[math.cos(radians), math.sin(radians)]], dtype=torch.float64)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(num=st.integers(1, 9), dim=st.integers(2, 40), seed=st.integers(0, 99))
def test_angles_equal_the_acos_of_the_cosine(num: int, dim: int, seed: int) -> None:
    noise, x_0, latent = (normal(num, dim, seed=3 * seed + offset) for offset in range(3))
    expected = triangle_angles_by_acos(noise.numpy(), x_0.numpy(), latent.numpy())
    angles = stacked(triangle_angles(noise, x_0, latent))
    np.testing.assert_allclose(angles.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(angles.sum(dim=0).numpy(), 180.0, atol=1e-11)


@pytest.mark.parametrize("apex_deg", [1e-10, 1e-6, 0.01, 30.0, 60.0, 90.0, 135.0, 179.99, 180 - 1e-6])
def test_angle_is_accurate_from_0_to_180(apex_deg: float) -> None:
    angles = triangle_angles(*planar(apex_deg, far=2.0))
    assert float(angles.at_image_deg) == pytest.approx(apex_deg, rel=1e-12, abs=1e-14)


def test_each_angle_stands_at_its_vertex() -> None:
    noise, x_0 = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.sqrt(3.0), 0.0]])
    angles = triangle_angles(noise, x_0, torch.tensor([[0.0, 1.0]]))
    assert float(angles.at_noise_deg) == pytest.approx(90, abs=1e-5)
    assert float(angles.at_image_deg) == pytest.approx(30, abs=1e-5)
    assert float(angles.at_latent_deg) == pytest.approx(60, abs=1e-5)


def test_equilateral_triangle() -> None:
    corners = torch.eye(3, dtype=torch.float64)
    angles = triangle_angles(corners[:1], corners[1:2], corners[2:])
    np.testing.assert_allclose(stacked(angles).numpy(), 60.0, atol=1e-12)


def test_angles_ignore_shift_scale_and_image_shape() -> None:
    noise, x_0, latent = three_sets(6, 3, 5, 7)
    expected = stacked(triangle_angles(noise, x_0, latent))
    moved = [1e-180 * vertex.flatten(1) for vertex in (noise, x_0, latent)]
    np.testing.assert_allclose(stacked(triangle_angles(*moved)).numpy(), expected.numpy(), rtol=1e-9)
    moved = [1e160 * vertex for vertex in (noise, x_0, latent)]
    np.testing.assert_allclose(stacked(triangle_angles(*moved)).numpy(), expected.numpy(), rtol=1e-9)
    moved = [vertex + 3.0 for vertex in (noise, x_0, latent)]
    np.testing.assert_allclose(stacked(triangle_angles(*moved)).numpy(), expected.numpy(), rtol=1e-9)


def test_chunks_give_the_same_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = three_sets(11, 6)
    whole_angles, whole_distances = triangle_angles(*sets), triangle_distances(*sets)
    monkeypatch.setattr("probediff.measures._rows.STREAM_ELEMENTS", 13)
    np.testing.assert_allclose(stacked(triangle_angles(*sets)).numpy(), stacked(whole_angles).numpy(), rtol=1e-12)
    chunked = triangle_distances(*sets).noise_latent
    np.testing.assert_allclose(chunked.numpy(), whole_distances.noise_latent.numpy(), rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_floating_dtype_gives_float64(dtype: torch.dtype) -> None:
    sets = three_sets(4, 3, 4, 4, dtype=dtype)
    expected = stacked(triangle_angles(*(vertex.double() for vertex in sets)))
    angles = stacked(triangle_angles(*sets))
    assert angles.dtype == torch.float64
    assert torch.equal(angles, expected)


def test_distances_are_the_norms_of_the_sides() -> None:
    noise, x_0, latent = three_sets(5, 3, 4, 4, dtype=torch.float32)
    distances = triangle_distances(noise, x_0, latent)
    n, x, z = (vertex.flatten(1).double().numpy() for vertex in (noise, x_0, latent))
    np.testing.assert_allclose(distances.noise_image.numpy(), np.linalg.norm(n - x, axis=1), rtol=1e-14)
    np.testing.assert_allclose(distances.image_latent.numpy(), np.linalg.norm(x - z, axis=1), rtol=1e-14)
    np.testing.assert_allclose(distances.noise_latent.numpy(), np.linalg.norm(n - z, axis=1), rtol=1e-14)
    assert distances.noise_image.dtype == torch.float64


def test_law_of_cosines_joins_angles_and_distances() -> None:
    sets = three_sets(20, 30)
    angles, sides = triangle_angles(*sets), triangle_distances(*sets)
    cosine = torch.cos(torch.deg2rad(angles.at_image_deg))
    expected = sides.noise_image**2 + sides.image_latent**2 - 2 * sides.noise_image * sides.image_latent * cosine
    np.testing.assert_allclose(sides.noise_latent.square().numpy(), expected.numpy(), rtol=1e-12)


def test_coinciding_vertices_are_counted_and_named() -> None:
    noise, x_0, latent = (vertex.clone() for vertex in three_sets(10, 4))
    latent[2], latent[7], x_0[9] = noise[2], noise[7], noise[9]
    with pytest.raises(ValueError, match=r"noise and x_0 coincide in 1 of 10 samples \(first indices: 9\)"):
        triangle_angles(noise, x_0, latent)
    with pytest.raises(ValueError, match=r"noise and latent coincide in 2 of 10 samples \(first indices: 2, 7\)"):
        triangle_angles(noise, x_0, latent)
    assert float(triangle_distances(noise, x_0, latent).noise_latent[2]) == 0.0


def test_angle_of_mean_cosine_is_not_the_mean_angle() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert angle_of_mean_cosine(a, b) == pytest.approx(60.0, abs=1e-9)
    same_direction = normal(5, 3, 4, 4)
    assert angle_of_mean_cosine(same_direction, 2 * same_direction) == pytest.approx(0.0, abs=1e-5)
    assert angle_of_mean_cosine(same_direction, -same_direction) == pytest.approx(180.0, abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(4, 7), "must agree in shape, got noise: .*4, 6.*latent: .*4, 7"),
        (torch.ones(5, 6), "must agree in number of samples, got noise: 4, x_0: 4, latent: 5"),
        (torch.ones(4, 2, 3), r"latent must be \(N, D\) or \(N, C, H, W\), got shape \(4, 2, 3\)"),
        (torch.ones(0, 6), r"latent must hold at least one sample.*\(0, 6\)"),
        (torch.full((4, 6), torch.nan), "latent must be finite, got 24 NaN or infinite values in 4 of 4 samples"),
        (torch.tensor([[1.0] * 6] * 3 + [[torch.inf] + [0.0] * 5]), "got 1 NaN .* first in sample 3; leave"),
    ],
)
@pytest.mark.parametrize("measure", [triangle_angles, triangle_distances])
def test_bad_input_is_refused(measure: Callable[..., object], bad: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(normal(4, 6), normal(4, 6, seed=1), bad)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"noise must be a torch.Tensor, got ndarray"):
        triangle_angles(np.ones((2, 3)), normal(2, 3), normal(2, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"x_0 must have a floating dtype, got torch.int64"):
        triangle_angles(normal(2, 3), torch.ones(2, 3, dtype=torch.int64), normal(2, 3))


def test_gradients_are_not_tracked() -> None:
    noise, x_0, latent = three_sets(3, 4)
    assert not triangle_angles(noise.requires_grad_(), x_0, latent).at_noise_deg.requires_grad


def angles_from(columns: Sequence[tuple[float, float, float]]) -> TriangleAngles:
    return TriangleAngles(*torch.tensor(columns, dtype=torch.float64).T)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(num=st.integers(1, 120), seed=st.integers(0, 99))
def test_most_probable_triangle_against_loops(num: int, seed: int) -> None:
    noise, x_0 = normal(num, 60, seed=seed), normal(num, 60, seed=seed + 100)
    angles = triangle_angles(noise, x_0, noise + 0.5 * normal(num, 60, seed=seed + 200))
    probability, winners = best_triangle_probability(stacked(angles).numpy())
    found = most_probable_triangle(angles)
    triangle = (found.at_noise_deg, found.at_image_deg, found.at_latent_deg)
    assert sum(triangle) == 180
    assert found.probability == pytest.approx(probability, rel=1e-12)
    if winners:
        mean = stacked(angles).mean(dim=1).numpy()
        assert triangle in winners
        assert math.dist(triangle, mean) == pytest.approx(min(math.dist(w, mean) for w in winners))


def test_bins_are_centred_on_whole_degrees() -> None:
    found = most_probable_triangle(angles_from([(44.6, 20.4, 115.0)] * 3))
    assert tuple(found) == (45, 20, 115, 1.0)


def test_no_probable_triangle_falls_back_to_the_rounded_mean() -> None:
    found = most_probable_triangle(angles_from([(60.4, 59.4, 60.2), (61.4, 61.4, 57.2)]))
    assert found.probability > 0
    # One sample whose three bins sum to 181 degrees: no triangle has a positive product.
    found = most_probable_triangle(angles_from([(60.7, 60.6, 58.7)]))
    assert tuple(found) == (61, 60, 59, 0.0)


def test_tie_goes_to_the_triangle_nearest_to_the_mean() -> None:
    found = most_probable_triangle(angles_from([(20, 30, 130), (60, 60, 60), (62, 58, 60), (120, 30, 30)]))
    probability, winners = best_triangle_probability(np.array([[20, 60, 62, 120], [30, 60, 58, 30], [130, 60, 60, 30]]))
    assert len(winners) > 1
    assert tuple(found)[:3] in winners
    assert found.probability == probability


def test_angles_beyond_180_are_no_triangle() -> None:
    # The likeliest marginals, 100 and 90, would leave -10 degrees.
    columns = [(100, 80, 0), (100, 79, 1), (90, 90, 0), (89, 90, 1)]
    probability, winners = best_triangle_probability(np.array(columns).T)
    found = most_probable_triangle(angles_from(columns))
    assert found.probability == probability == 4 / 4**3
    assert tuple(found)[:3] in winners


def test_degenerate_angles_have_bins() -> None:
    assert tuple(most_probable_triangle(angles_from([(0, 0, 180)]))) == (0, 0, 180, 1.0)


@pytest.mark.parametrize(
    ("angles", "message"),
    [
        (angles_from([(10, 20, 30)]), r"sum to 180 in every sample, got 1 others \(first indices: 0\)"),
        (angles_from([(60, 60, 60), (-10, 100, 90)]), "got 1 others .first indices: 1."),
        (TriangleAngles(torch.ones(2), torch.ones(2), torch.ones(3)), r"three \(N,\) tensors"),
        (TriangleAngles(torch.ones(0), torch.ones(0), torch.ones(0)), r"three \(N,\) tensors with N > 0"),
        (angles_from([(torch.nan, 60, 60)]), "got 1 others"),
    ],
)
def test_most_probable_triangle_refuses_other_angles(angles: TriangleAngles, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        most_probable_triangle(angles)
