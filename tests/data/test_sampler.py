"""The order of images: a pure function of (seed, step), whatever the passes, processes and resumes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.data import StepKeyedBatchSampler
from probediff.data.sampler import keyed_permutation

few = settings(max_examples=25, deadline=None, derandomize=True)
sizes = st.integers(1, 40)


@few
@given(sizes, sizes, st.integers(-(2**40), 2**70))
def test_every_image_once_an_epoch(num_images: int, batch_size: int, seed: int) -> None:
    sampler = StepKeyedBatchSampler(num_images, batch_size, seed)
    num_steps = -(-4 * num_images // batch_size)
    order = torch.cat([sampler.batch_indices(step) for step in range(num_steps)])
    assert order.dtype == torch.int64
    epochs = order[: 4 * num_images].view(4, num_images)
    np.testing.assert_array_equal(epochs.sort(dim=1).values, np.tile(np.arange(num_images), (4, 1)))


@few
@given(sizes, st.integers(1, 12), st.integers(1, 4), st.integers(0, 50))
def test_ranks_share_the_global_batch(num_images: int, rows: int, world_size: int, step: int) -> None:
    whole = StepKeyedBatchSampler(num_images, rows * world_size, 5).batch_indices(step)
    parts = [
        StepKeyedBatchSampler(num_images, rows * world_size, 5, rank, world_size).batch_indices(step)
        for rank in range(world_size)
    ]
    assert all(len(part) == rows for part in parts)
    assert torch.equal(torch.cat(parts), whole)


def test_order_depends_on_seed_and_epoch_but_on_no_history() -> None:
    order = [StepKeyedBatchSampler(500, 500, seed).batch_indices(step) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(indices.tolist()) for indices in order}) == 4
    backwards = StepKeyedBatchSampler(500, 500, 1)
    assert torch.equal(torch.stack([backwards.batch_indices(step) for step in (7, 3, 1, 0)])[2], order[3])


def test_order_is_uniform() -> None:
    """Image 0 stands at each of 8 places in one epoch in 8; chi-squared with 7 degrees of freedom, 99.9 % = 24.3."""
    sampler = StepKeyedBatchSampler(8, 8, seed=0)
    places = torch.stack([sampler.batch_indices(step) for step in range(2000)]).eq(0).sum(dim=0).double()
    assert float(((places - 250) ** 2 / 250).sum()) < 24.3


def test_the_order_is_pinned() -> None:
    """A changed key or generator would silently change every run that is resumed."""
    sampler = StepKeyedBatchSampler(10, 4, seed=3)
    assert [sampler.batch_indices(step).tolist() for step in range(3)] == [[0, 6, 2, 4], [1, 5, 3, 8], [7, 9, 5, 0]]


def test_batch_larger_than_the_set_wraps() -> None:
    sampler = StepKeyedBatchSampler(3, 10, seed=0)
    assert len(sampler) == 1
    assert torch.bincount(sampler.batch_indices(0)).tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])


def test_passes_start_where_they_are_told() -> None:
    sampler = StepKeyedBatchSampler(23, 5, seed=2)
    expected = [sampler.batch_indices(step).tolist() for step in range(40)]
    assert list(sampler) == expected[:4]
    counter = iter([21, 5])
    sampler.follow(lambda: next(counter))
    assert list(sampler) == expected[21:25]
    assert list(sampler) == expected[5:9]


def test_few_permutations_are_kept_and_none_is_drawn_twice() -> None:
    keyed_permutation.cache_clear()
    sampler = StepKeyedBatchSampler(10, 25, seed=0)
    for step in range(5):
        sampler.batch_indices(step)
    assert keyed_permutation.cache_info().misses == 13
    assert keyed_permutation.cache_info().currsize <= 4


def test_global_randomness_is_untouched() -> None:
    before = torch.get_rng_state()
    list(StepKeyedBatchSampler(10, 3, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 0), "num_images must be at least 1, got 0"),
        ((4, 0, 0), "batch_size must be at least 1, got 0"),
        ((4, 4, 0, 2, 2), r"rank must lie in 0..world_size-1, got rank 2 of world_size 2"),
        ((4, 4, 0, -1, 2), "got rank -1 of world_size 2"),
        ((9, 5, 0, 0, 2), "must divide by the 2 processes, got 5; choose a multiple of 2, such as 6"),
    ],
)
def test_bad_arguments(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepKeyedBatchSampler(*arguments)


def test_negative_steps() -> None:
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        StepKeyedBatchSampler(4, 2, seed=0).batch_indices(-1)
