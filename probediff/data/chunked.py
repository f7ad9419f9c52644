"""An order of images that lie in chunks: shuffled, yet near in time where near in place."""

from collections.abc import Sequence

import numpy as np
import torch

from probediff.data.sampler import StepKeyedBatchSampler, keyed_permutation

# Chunks mixed with each other. Part of the order: a changed number is another order.
CHUNKS_PER_BLOCK = 16


class ChunkedBatchSampler(StepKeyedBatchSampler):
    """Step-keyed batches that visit the chunks block by block.

    Each epoch permutes the chunks, takes them in blocks of `CHUNKS_PER_BLOCK`, and permutes the images within each
    block, all keyed by (seed, epoch). So a machine needs the chunks of one block (two at its end) at a time. As in
    `StepKeyedBatchSampler`, the global batch is a function of (seed, step) alone: every image comes exactly once an
    epoch on any number of processes, and a resumed run goes on exactly, without any state.

    Args:
        counts: Images in each chunk; image numbers run through the chunks in order.
        batch_size: Global batch size, shared by all processes.
        seed: Seed of the order.
        rank: Number of this process, 0 .. world_size - 1.
        world_size: Number of processes; must divide ``batch_size``.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, counts: Sequence[int], batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(int(sum(counts)), batch_size, seed, rank, world_size)
        self._counts = np.asarray(counts, dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts

    def _epoch_part(self, epoch: int, first: int, last: int) -> torch.Tensor:
        """Indices at those of the positions first .. last - 1 that lie in one epoch."""
        chunks = keyed_permutation(len(self._counts), self.seed, epoch, 0, "chunk order").numpy()
        low = max(first - epoch * self.num_images, 0)
        high = min(last - epoch * self.num_images, self.num_images)
        starts = np.arange(0, len(chunks), CHUNKS_PER_BLOCK)
        sizes = np.add.reduceat(self._counts[chunks], starts)
        ends = np.cumsum(sizes)
        begins = ends - sizes
        parts = []
        for block in np.flatnonzero((begins < high) & (ends > low)).tolist():
            members = chunks[starts[block] : starts[block] + CHUNKS_PER_BLOCK]
            images = np.concatenate([np.arange(self._counts[chunk]) + self._starts[chunk] for chunk in members])
            order = keyed_permutation(len(images), self.seed, epoch, block, "block order")
            parts.append(torch.from_numpy(images[order[max(low - begins[block], 0) : high - begins[block]].numpy()]))
        return torch.cat(parts)
