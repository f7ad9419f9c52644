"""Nearest-neighbour assignment."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import AssignmentAccuracy, assignment_accuracy
from tests.reference.measures_reference import accuracy_by_loops, nearest_by_loops


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def related_sets(num: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that resemble their noises only partly, so that both accuracies lie inside 0..1."""
    noise = normal(num, dim, seed=seed)
    return noise, 0.3 * noise + 0.5 * normal(num, dim, seed=seed + 1000) * torch.linspace(
        0.1, 1, num, dtype=torch.float64
    )[:, None]


def assert_same(a: AssignmentAccuracy, b: AssignmentAccuracy) -> None:
    assert a.image_to_noise == b.image_to_noise
    assert a.noise_to_image == b.noise_to_image
    assert a.image_to_noise_top5 == b.image_to_noise_top5
    assert a.noise_to_image_top5 == b.noise_to_image_top5
    assert torch.equal(a.nearest_noise, b.nearest_noise)
    assert torch.equal(a.nearest_image, b.nearest_image)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    num=st.integers(1, 24),
    dim=st.integers(1, 24),
    chunk_size=st.sampled_from([1, 2, 5, 8, 23, 64]),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_against_loops(num: int, dim: int, chunk_size: int, seed: int, dtype: torch.dtype) -> None:
    noise = normal(num, dim, seed=seed, dtype=dtype)
    x_0 = (0.4 * noise + 0.5 * normal(num, dim, seed=seed + 1000, dtype=dtype)).to(dtype)
    found = assignment_accuracy(noise, x_0, chunk_size=chunk_size)
    for queries, candidates, nearest, top1, top5 in [
        (x_0, noise, found.nearest_noise, found.image_to_noise, found.image_to_noise_top5),
        (noise, x_0, found.nearest_image, found.noise_to_image, found.noise_to_image_top5),
    ]:
        expected = nearest_by_loops(queries.double().numpy(), candidates.double().numpy(), min(5, num))
        assert nearest.tolist() == [row[0] for row in expected]
        assert top1 == pytest.approx(accuracy_by_loops([row[:1] for row in expected]))
        assert top5 == pytest.approx(accuracy_by_loops(expected))
    assert found.nearest_noise.dtype == found.nearest_image.dtype == torch.int64


@pytest.mark.parametrize("chunk_size", [10, 23, 64, 127, 300])
def test_chunk_size_changes_nothing(chunk_size: int) -> None:
    noise, x_0 = related_sets(127, 20)
    whole = assignment_accuracy(noise, x_0)
    assert 0.02 < whole.noise_to_image < whole.noise_to_image_top5 < 1
    assert 0.02 < whole.image_to_noise < whole.image_to_noise_top5 <= 1
    assert_same(assignment_accuracy(noise, x_0, chunk_size=chunk_size), whole)


def test_the_directions_are_not_swapped() -> None:
    # All noises lie nearest to image 0; each image lies nearest to noise 2.
    noise = torch.tensor([[0.0, 5.0], [0.0, 6.0], [0.0, 4.0]])
    x_0 = torch.tensor([[0.0, 0.0], [0.0, -1.0], [0.0, -2.0]])
    found = assignment_accuracy(noise, x_0)
    assert found.nearest_image.tolist() == [0, 0, 0]
    assert found.nearest_noise.tolist() == [2, 2, 2]
    assert found.noise_to_image == found.image_to_noise == pytest.approx(1 / 3)
    assert found.noise_to_image_top5 == found.image_to_noise_top5 == 1.0


def test_swapping_the_sets_swaps_the_directions() -> None:
    noise, x_0 = related_sets(60, 15)
    found, swapped = assignment_accuracy(noise, x_0), assignment_accuracy(x_0, noise)
    assert found.image_to_noise == swapped.noise_to_image != found.noise_to_image
    assert found.image_to_noise_top5 == swapped.noise_to_image_top5
    assert torch.equal(found.nearest_noise, swapped.nearest_image)


@pytest.mark.parametrize("num", [1, 4, 5, 200])
def test_identical_sets_give_1(num: int) -> None:
    noise = normal(num, 3, 5, 5, dtype=torch.float32)
    found = assignment_accuracy(noise, noise, chunk_size=64)
    assert (found.image_to_noise, found.noise_to_image) == (1.0, 1.0)
    assert (found.image_to_noise_top5, found.noise_to_image_top5) == (1.0, 1.0)
    assert torch.equal(found.nearest_noise, torch.arange(num))


def test_unrelated_sets_give_one_in_n() -> None:
    num, repeats = 100, 40
    found = [assignment_accuracy(normal(num, 8, seed=s), normal(num, 8, seed=s + 500)) for s in range(repeats)]
    # A count of hits among num * repeats tries of chance 1 / num: 40 +- 6.3, and 200 +- 14 for the top 5.
    assert np.mean([f.image_to_noise for f in found]) == pytest.approx(1 / num, abs=4 * 6.4 / (num * repeats))
    assert np.mean([f.noise_to_image for f in found]) == pytest.approx(1 / num, abs=4 * 6.4 / (num * repeats))
    assert np.mean([f.noise_to_image_top5 for f in found]) == pytest.approx(5 / num, abs=4 * 14 / (num * repeats))


def test_permuting_pairs_permutes_the_answer() -> None:
    noise, x_0 = related_sets(80, 12)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    found, permuted = assignment_accuracy(noise, x_0), assignment_accuracy(noise[order], x_0[order], chunk_size=17)
    assert permuted.image_to_noise == found.image_to_noise
    assert permuted.noise_to_image_top5 == found.noise_to_image_top5
    assert torch.equal(order[permuted.nearest_noise], found.nearest_noise[order])
    assert torch.equal(order[permuted.nearest_image], found.nearest_image[order])


def test_common_offset_does_not_cancel_digits() -> None:
    noise, x_0 = related_sets(100, 30)
    expected = assignment_accuracy(noise, x_0)
    # 512 is exact in float32 and leaves 14 bits of the values: products that were not centred would keep none.
    offset_noise, offset_images = (noise + 512).float(), (x_0 + 512).float()
    loops = nearest_by_loops(offset_noise.double().numpy(), offset_images.double().numpy(), 1)
    found = assignment_accuracy(offset_noise, offset_images)
    assert found.nearest_image.tolist() == [row[0] for row in loops]
    assert found.noise_to_image == pytest.approx(expected.noise_to_image, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num", "chunk_size"), [(37, 5), (37, 100), (3, 2)])
def test_constant_images_tie_to_the_lower_index(dtype: torch.dtype, num: int, chunk_size: int) -> None:
    x_0 = torch.full((num, 3, 5, 7), 0.3, dtype=dtype)
    found = assignment_accuracy(normal(num, 3, 5, 7, dtype=dtype), x_0, chunk_size=chunk_size)
    assert found.noise_to_image == pytest.approx(1 / num)
    assert found.image_to_noise == pytest.approx(1 / num)
    assert found.noise_to_image_top5 == pytest.approx(min(5, num) / num)
    assert torch.equal(found.nearest_image, torch.zeros(num, dtype=torch.int64))
    swapped = assignment_accuracy(x_0, normal(num, 3, 5, 7, dtype=dtype), chunk_size=chunk_size)
    assert torch.equal(swapped.nearest_noise, torch.zeros(num, dtype=torch.int64))


def test_ties_across_tiles_keep_the_lower_indices() -> None:
    # Integers, so that every distance is exact: candidates 1, 4 and 6 are one point, the nearest of all queries.
    x_0 = torch.tensor([[9.0], [1.0], [8.0], [7.0], [1.0], [6.0], [1.0], [5.0]], dtype=torch.float64)
    noise = torch.zeros(8, 1, dtype=torch.float64)
    for chunk_size in (1, 2, 3, 8):
        found = assignment_accuracy(noise, x_0, chunk_size=chunk_size)
        assert found.nearest_image.tolist() == [1] * 8
        # The five nearest are 1, 4, 6, 7 and 5.
        assert found.noise_to_image_top5 == pytest.approx(5 / 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_float32(dtype: torch.dtype) -> None:
    noise, x_0 = (images.to(dtype) for images in related_sets(60, 12))
    assert_same(assignment_accuracy(noise, x_0), assignment_accuracy(noise.float(), x_0.float()))


def test_autocast_does_not_reach_the_tiles() -> None:
    noise, x_0 = (images.float() for images in related_sets(200, 6))
    expected = assignment_accuracy(noise, x_0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(assignment_accuracy(noise, x_0), expected)


@pytest.mark.parametrize(
    ("noise", "x_0", "chunk_size", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), 8, "noise and x_0 must agree in shape"),
        (torch.ones(3, 4), torch.ones(2, 4), 8, "noise and x_0 must agree in number of samples, got noise: 3, x_0: 2"),
        (torch.ones(3, 1, 2, 2), torch.ones(3, 4), 8, "noise and x_0 must agree in shape"),
        (torch.ones(0, 4), torch.ones(0, 4), 8, "noise must hold at least one sample"),
        (torch.ones(4), torch.ones(4), 8, r"noise must be \(N, D\) or \(N, C, H, W\), got shape \(4,\)"),
        (torch.ones(3, 4), torch.full((3, 4), -torch.inf), 8, "x_0 must be finite, got 12 NaN or infinite"),
        (torch.ones(3, 4), torch.ones(3, 4), 0, "chunk_size must be at least 1, got 0"),
        (torch.ones(3, 4), torch.full((3, 4), 1e19), 8, "squared distances in torch.float32, got 1e.19.*float64"),
    ],
)
def test_bad_input_is_refused(noise: torch.Tensor, x_0: torch.Tensor, chunk_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assignment_accuracy(noise, x_0, chunk_size=chunk_size)


def test_chunk_size_must_be_an_int() -> None:
    with pytest.raises(TypeError, match="chunk_size must be an int, got float"):
        assignment_accuracy(torch.ones(2, 2), torch.ones(2, 2), chunk_size=2.0)  # type: ignore[arg-type]


def test_large_values_work_in_float64() -> None:
    noise, x_0 = related_sets(20, 8)
    assert_same(assignment_accuracy(1e100 * noise, 1e100 * x_0), assignment_accuracy(noise, x_0))
