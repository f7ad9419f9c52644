"""An order of images that lie in chunks: shuffled, yet near in time where near in place."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from probediff.data.sampler import StepKeyedBatchSampler
from probediff.noise import derived_seed

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
        self._blocks: dict[tuple[int, int], torch.Tensor] = {}

    def _epoch_part(self, epoch: int, first: int, last: int) -> torch.Tensor:
        """Indices at those of the positions first .. last - 1 that lie in one epoch."""
        chunks = self._permuted("chunk order", epoch, len(self._counts)).numpy()
        ends = np.cumsum(self._counts[chunks])[CHUNKS_PER_BLOCK - 1 :: CHUNKS_PER_BLOCK]
        ends = np.append(ends, self.num_images) if len(chunks) % CHUNKS_PER_BLOCK else ends
        begins = np.concatenate([[0], ends[:-1]])
        low = max(first - epoch * self.num_images, 0)
        high = min(last - epoch * self.num_images, self.num_images)
        parts = [
            self._block(epoch, int(block), chunks)[max(low - begins[block], 0) : high - begins[block]]
            for block in np.flatnonzero((begins < high) & (ends > low))
        ]
        return torch.cat(parts)

    def _block(self, epoch: int, block: int, chunks: npt.NDArray[np.int64]) -> torch.Tensor:
        """Order of the images of one block; the two latest are kept because a batch may straddle blocks."""
        if (epoch, block) not in self._blocks:
            while len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            mine = chunks[block * CHUNKS_PER_BLOCK : (block + 1) * CHUNKS_PER_BLOCK]
            images = np.concatenate([np.arange(self._counts[c]) + self._starts[c] for c in mine])
            order = self._permuted("block order", epoch, len(images), block)
            self._blocks[epoch, block] = torch.from_numpy(images)[order]
        return self._blocks[epoch, block]

    def _permuted(self, purpose: str, epoch: int, length: int, block: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, block, purpose))
        return torch.randperm(length, generator=generator)
