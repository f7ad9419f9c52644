"""Standard errors of nearest-neighbour assignment: the delete-a-group jackknife from one pass over the distances.

A binomial error takes the samples for independent trials, which they are not: a hub takes the noises of many.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from probediff.measures._rows import same_shape_rows
from probediff.measures.assignment import MOST_NEIGHBOURS, AssignmentAccuracy, CentredSet, centred_sets, smallest
from probediff.measures.uncertainty import NUM_GROUPS

_CHUNK = 4096


def assignments_without_groups(noise: Tensor, x_0: Tensor) -> Iterator[tuple[Tensor, AssignmentAccuracy]]:
    """What `assignment_accuracy` gives without each group of samples, as noises and as images.

    Args:
        noise: (N, C, H, W) or (N, D). One shape; `noise[i]` belongs to `x_0[i]`.
        x_0: As `noise`.

    Yields:
        Indices (n,) of the samples that are kept, and the assignment, whose own indices are into these. Nothing for a
        single sample.

    Raises:
        ValueError: As `assignment_accuracy`.
    """
    noise, x_0 = same_shape_rows(noise=noise, x_0=x_0)
    if len(noise) < 2:
        return
    noise_set, image_set = centred_sets(noise, x_0)
    images_near, noises_near = _Candidates.of(noise_set, image_set), _Candidates.of(image_set, noise_set)
    index = torch.arange(len(noise), device=noise.device)
    for group in range(min(NUM_GROUPS, len(noise))):
        kept = index[index % NUM_GROUPS != group]
        # The number of each kept sample among those that are.
        place = torch.full_like(index, -1).scatter_(0, kept, torch.arange(len(kept), device=kept.device))
        image_of, noise_of = (place[near.without(group)[kept]] for near in (images_near, noises_near))
        yield kept, AssignmentAccuracy.of(noises_near=noise_of, images_near=image_of)


class _Candidates:
    """The nearest candidates in every group of each query, in the order of their indices.

    Args:
        scores: (N, G k).
        indices: (N, G k), ascending.
    """

    def __init__(self, scores: Tensor, indices: Tensor, num_nearest: int) -> None:
        self._scores = scores
        self._indices = indices
        self._num_nearest = num_nearest

    @classmethod
    def of(cls, queries: CentredSet, candidates: CentredSet) -> "_Candidates":
        """The nearest of one set to each of another."""
        num = len(queries.rows)
        num_nearest = min(MOST_NEIGHBOURS, num - math.ceil(num / NUM_GROUPS))
        scores, indices = [], []
        with torch.autocast(queries.rows.device.type, enabled=False):
            for group in range(min(NUM_GROUPS, num)):
                members = replace(
                    candidates, rows=candidates.rows[group::NUM_GROUPS], offset=candidates.offset[group::NUM_GROUPS]
                )
                block = members.block(0, len(members.rows))
                near = [
                    smallest((queries.block(start, _CHUNK) @ block.T).mul_(-2).add_(members.offset), num_nearest)
                    for start in range(0, num, _CHUNK)
                ]
                scores.append(torch.cat([part for part, _ in near]))
                indices.append(torch.cat([part for _, part in near]) * NUM_GROUPS + group)
        every, order = torch.cat(indices, dim=1).sort(dim=1)
        return cls(torch.cat(scores, dim=1).gather(1, order), every, num_nearest)

    def without(self, group: int) -> Tensor:
        """(N, k) nearest candidates outside of a group, nearest first; of equally near ones the lower index."""
        others = self._scores.masked_fill(self._indices % NUM_GROUPS == group, torch.inf)
        _, places = smallest(others, self._num_nearest)
        return self._indices.gather(1, places)
