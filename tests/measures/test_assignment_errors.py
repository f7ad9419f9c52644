"""Assignments without each group of samples: those of the public measure, computed anew."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.measures import AssignmentAccuracy, assignment_accuracy, assignment_errors
from probediff.measures.assignment_errors import assignments_without_groups
from tests.measures.test_assignment import assert_same, related_sets
from tests.reference.errors_reference import kept_by_group
from tests.reference.measures_reference import accuracy_by_loops, nearest_by_loops


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_computed_anew(noise: torch.Tensor, x_0: torch.Tensor) -> None:
    found = list(assignments_without_groups(noise, x_0))
    assert [kept.tolist() for kept, _ in found] == (kept_by_group(len(noise)) if len(noise) > 1 else [])
    for kept, without in found:
        assert_same(without, assignment_accuracy(noise[kept], x_0[kept]))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    num=st.integers(1, 70),
    dim=st.integers(1, 90),
    chunk=st.sampled_from([1, 7, 4096]),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    constant=st.booleans(),
)
def test_they_are_computed_anew_without_each_group(
    num: int, dim: int, chunk: int, seed: int, dtype: torch.dtype, constant: bool
) -> None:
    noise, x_0 = (rows.to(dtype) for rows in related_sets(num, dim, seed))
    if constant:
        x_0[:, 0] = 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment_errors, "_CHUNK", chunk)
        assert_computed_anew(noise, x_0)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    num=st.sampled_from([2, 8, 16, 32, 64]),
    dim=st.integers(1, 6),
    different=st.integers(1, 12),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_of_images_that_are_there_twice_the_lower_index_is_nearer(
    num: int, dim: int, different: int, seed: int, dtype: torch.dtype
) -> None:
    """Whole numbers, and as many samples as make their means and distances exact: equal distances are equal then."""
    generator = torch.Generator().manual_seed(seed)
    noise, images = (torch.randint(-3, 4, (count, dim), generator=generator).to(dtype) for count in (num, different))
    x_0 = images[torch.randint(different, (num,), generator=generator)]
    for kept, without in assignments_without_groups(noise, x_0):
        n, x = noise[kept].double().numpy(), x_0[kept].double().numpy()
        images_near, noises_near = nearest_by_loops(n, x, 5), nearest_by_loops(x, n, 5)
        assert without.nearest_image.tolist() == [row[0] for row in images_near]
        assert without.nearest_noise.tolist() == [row[0] for row in noises_near]
        assert without.noise_to_image_top5 == pytest.approx(accuracy_by_loops(images_near))
        assert without.image_to_noise_top5 == pytest.approx(accuracy_by_loops(noises_near))


def test_images_that_are_all_equal_are_found_by_chance() -> None:
    for kept, without in assignments_without_groups(normal(45, 8), torch.full((45, 8), 0.3, dtype=torch.float64)):
        assert without.noise_to_image == 1 / len(kept)
        assert without.nearest_image.tolist() == [0] * len(kept)


def test_images_and_shifted_sets() -> None:
    noise, x_0 = related_sets(50, 48)
    assert_computed_anew(noise.reshape(50, 3, 4, 4).float(), (x_0 + 20).reshape(50, 3, 4, 4).float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_computed_anew(noise.float(), x_0.float())


def test_accuracies_of_neighbours_that_are_known() -> None:
    near = torch.tensor([[0, 1], [2, 1], [0, 1]])
    found = AssignmentAccuracy.of(noises_near=near, images_near=torch.tensor([[2, 0], [1, 0], [2, 1]]))
    assert (found.image_to_noise, found.image_to_noise_top5) == (1 / 3, 2 / 3)
    assert (found.noise_to_image, found.noise_to_image_top5) == (2 / 3, 1)
    assert found.nearest_noise.tolist() == [0, 2, 0] and found.nearest_image.tolist() == [2, 1, 2]


def test_bad_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="noise and x_0 must agree in shape"):
        next(assignments_without_groups(normal(5, 3), normal(5, 4)))
    with pytest.raises(ValueError, match="noise must be finite"):
        next(assignments_without_groups(normal(5, 3) / 0, normal(5, 3)))
