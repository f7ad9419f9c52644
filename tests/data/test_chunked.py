"""The order by chunks: every image once an epoch, from block to block, on any number of processes."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.data.chunked import CHUNKS_PER_BLOCK, ChunkedBatchSampler

few = settings(max_examples=25, deadline=None, derandomize=True)
chunk_counts = st.lists(st.integers(0, 7), min_size=1, max_size=50).filter(any)


@few
@given(chunk_counts, st.integers(1, 40), st.integers(-(2**40), 2**70))
def test_every_image_once_an_epoch(counts: list[int], batch_size: int, seed: int) -> None:
    sampler = ChunkedBatchSampler(counts, batch_size, seed)
    num_images = sum(counts)
    order = torch.cat([sampler.batch_indices(step) for step in range(-(-3 * num_images // batch_size))])
    epochs = order[: 3 * num_images].view(3, num_images)
    np.testing.assert_array_equal(epochs.sort(dim=1).values, np.tile(np.arange(num_images), (3, 1)))


@few
@given(chunk_counts, st.integers(1, 12), st.integers(1, 4), st.integers(0, 50))
def test_ranks_share_the_global_batch(counts: list[int], rows: int, world_size: int, step: int) -> None:
    whole = ChunkedBatchSampler(counts, rows * world_size, 5).batch_indices(step)
    ranks = [ChunkedBatchSampler(counts, rows * world_size, 5, rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat([sampler.batch_indices(step) for sampler in ranks]), whole)


def test_an_epoch_goes_from_block_to_block_and_mixes_each() -> None:
    num_chunks = 3 * CHUNKS_PER_BLOCK
    order = ChunkedBatchSampler([10] * num_chunks, 10 * num_chunks, seed=1).batch_indices(0).view(3, -1)
    chunks = [set((block // 10).tolist()) for block in order]
    assert [len(block) for block in chunks] == [CHUNKS_PER_BLOCK] * 3
    assert len(set.union(*chunks)) == num_chunks
    assert chunks[0] != set(range(CHUNKS_PER_BLOCK))
    runs = (order[0, 1:] // 10 == order[0, :-1] // 10).double().mean()
    assert runs < 0.15


def test_the_order_depends_on_seed_and_epoch_but_on_no_history() -> None:
    counts = [30] * 40
    orders = [ChunkedBatchSampler(counts, 1200, seed).batch_indices(step) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    backwards = ChunkedBatchSampler(counts, 1200, 1)
    assert torch.equal(torch.stack([backwards.batch_indices(step) for step in (5, 1, 0)])[1], orders[3])


def test_the_order_is_pinned() -> None:
    """A changed key or generator would silently change every run that is resumed."""
    sampler = ChunkedBatchSampler([3, 3, 4], 4, seed=3)
    assert [sampler.batch_indices(step).tolist() for step in range(3)] == [
        [0, 4, 5, 9],
        [3, 2, 1, 7],
        [8, 6, 6, 8],
    ]
