"""The order of training images as a pure function of (seed, step)."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch.utils.data import Sampler

from probediff.noise import derived_seed


class StepKeyedBatchSampler(Sampler[list[int]]):
    """Batches of image indices that depend on the seed and the step only.

    The images form one endless sequence: epoch after epoch, each epoch a permutation keyed by (seed, epoch). The
    global batch of step ``s`` is positions ``s * batch_size ... (s + 1) * batch_size - 1`` of it, and rank ``r`` takes
    the r-th of ``world_size`` equal parts. Batches straddle epochs, so no image is dropped or repeated within an epoch,
    and a run of any number of processes that starts again at step ``s`` sees the images it would have seen.

    One pass of ``iter`` yields ``len(self)`` batches, from step 0 or from where the counter that it follows stands.

    Args:
        num_images: Number of images N of the training set.
        batch_size: Global batch size, shared by all processes; may exceed ``num_images``.
        seed: Seed of the order.
        rank: Number of this process, 0 .. world_size - 1.
        world_size: Number of processes; must divide ``batch_size``.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        _check_arguments(num_images, batch_size, rank, world_size)
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._counter: Callable[[], int] = int

    def follow(self, counter: Callable[[], int]) -> None:
        """Let every pass begin at the step that ``counter()``, the number of batches trained on, then returns."""
        self._counter = counter

    def batch_indices(self, step: int) -> torch.Tensor:
        """Image indices of one step on this rank.

        Args:
            step: Training step, counted from 0.

        Returns:
            (batch_size / world_size,) int64, a pure function of (seed, step, rank, world_size).

        Raises:
            ValueError: ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}; count training steps from 0")
        rows = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * rows
        last = first + rows
        epochs = range(first // self.num_images, (last - 1) // self.num_images + 1)
        return torch.cat([self._epoch_part(epoch, first, last) for epoch in epochs])

    def _epoch_part(self, epoch: int, first: int, last: int) -> torch.Tensor:
        """Indices at those of the positions first .. last - 1 that lie in one epoch."""
        origin = epoch * self.num_images
        order = keyed_permutation(self.num_images, self.seed, epoch, "image order")
        return order[max(first - origin, 0) : last - origin]

    def __len__(self) -> int:
        """Batches that Lightning calls an epoch: max(1, num_images // batch_size)."""
        return max(1, self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Index lists of `batch_indices`: ``len(self)`` of them from where the counter stands."""
        start = self._counter()
        for step in range(start, start + len(self)):
            yield self.batch_indices(step).tolist()


# Kept because many batches share an epoch, and one may straddle two.
@lru_cache(maxsize=4)
def keyed_permutation(length: int, *key: int | str) -> torch.Tensor:
    """A random order of 0 .. length - 1, (length,) int64, that depends on the key alone; never change it in place."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(derived_seed(*key)))


def _check_arguments(num_images: int, batch_size: int, rank: int, world_size: int) -> None:
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}; give a training set that holds images")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in 0..world_size-1, got rank {rank} of world_size {world_size}")
    if batch_size % world_size:
        raise ValueError(
            f"batch_size is the global batch and must divide by the {world_size} processes, got {batch_size}; "
            f"choose a multiple of {world_size}, such as {-(-batch_size // world_size) * world_size}"
        )
