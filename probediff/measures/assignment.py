"""Which noise lies nearest to which image, and back (P1, table 2, figures 5, 7 and 8).

P1 is *There and Back Again*.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.measures._rows import check_at_least, column_mean, float64_chunks, same_shape_rows

#: What the accuracies of five look at.
MOST_NEIGHBOURS = 5


@dataclass(frozen=True)
class AssignmentAccuracy:
    """Nearest-neighbour assignment in both directions.

    `image_to_noise` is the fraction of images whose nearest noise (L2) is their own, `noise_to_image` the fraction
    of noises whose nearest image is their own; `_top5` asks for the own one among the min(5, N) nearest.
    `nearest_noise` (N,) int64 holds the nearest noise of each image, `nearest_image` the nearest image of each noise.
    """

    image_to_noise: float
    noise_to_image: float
    image_to_noise_top5: float
    noise_to_image_top5: float
    nearest_noise: Tensor
    nearest_image: Tensor

    @classmethod
    def of(cls, noises_near: Tensor, images_near: Tensor) -> "AssignmentAccuracy":
        """From the (N, k) nearest noises of each image and images of each noise, nearest first."""
        own = torch.arange(len(noises_near), device=noises_near.device)[:, None]
        return cls(
            image_to_noise=_fraction(noises_near[:, :1] == own),
            noise_to_image=_fraction(images_near[:, :1] == own),
            image_to_noise_top5=_fraction(noises_near == own),
            noise_to_image_top5=_fraction(images_near == own),
            nearest_noise=noises_near[:, 0].clone(),
            nearest_image=images_near[:, 0].clone(),
        )


def assignment_accuracy(noise: Tensor, x_0: Tensor, chunk_size: int = 4096) -> AssignmentAccuracy:
    """How often nearest neighbours by L2 are the pairs that belong together (P1, table 2).

    One pass over tiles of `chunk_size` x `chunk_size` distances serves both directions and both counts of
    neighbours; memory is O(chunk_size^2 + chunk_size D + N). Distances are expanded around the mean of each set,
    which removes what would cancel; norms are summed in float64, tiles are in float64 if an input is, else in float32.

    Of candidates at exactly the same distance, as computed in the precision of the tiles, the lower index is
    nearer: N equal images give 1 / N.

    Args:
        noise: (N, C, H, W) or (N, D). One shape; `noise[i]` belongs to `x_0[i]`.
        x_0: As `noise`.
        chunk_size: Rows in a tile; it changes memory and speed.

    Raises:
        ValueError: Shapes differ, nothing in them, values not finite or too large for squares in the precision of the
            tiles, `chunk_size` under 1.
    """
    noise, x_0 = same_shape_rows(noise=noise, x_0=x_0)
    check_at_least("chunk_size", chunk_size, 1)
    noise_set, image_set = centred_sets(noise, x_0)
    images_near, noises_near = _nearest_both_ways(noise_set, image_set, min(MOST_NEIGHBOURS, len(noise)), chunk_size)
    return AssignmentAccuracy.of(noises_near, images_near)


def _fraction(is_own: Tensor) -> float:
    return float(is_own.any(dim=1).double().mean())


@dataclass(frozen=True)
class CentredSet:
    """Rows around a centre, made tile by tile, and what each row adds to a distance besides the product."""

    rows: Tensor
    centre: Tensor
    offset: Tensor

    def block(self, start: int, size: int) -> Tensor:
        """Some rows around the centre."""
        return self.rows[start : start + size].to(self.centre.dtype) - self.centre


def centred_sets(noise: Tensor, x_0: Tensor) -> tuple[CentredSet, CentredSet]:
    """Both sets, each around its own mean.

    With noise = m_a + a and image = m_b + b the squared distance is, up to a constant,
    |a|^2 + 2 a.(m_a - m_b) + |b|^2 - 2 b.(m_a - m_b) - 2 a.b. Only the last term needs the matrix product; for
    the neighbours of one point the other set's terms are an offset for each candidate. Equal candidates have
    b = 0 exactly, hence equal distances.
    """
    dtype = torch.promote_types(torch.promote_types(noise.dtype, x_0.dtype), torch.float32)
    centres = [column_mean(rows).to(dtype) for rows in (noise, x_0)]
    _check_squares_fit(noise, x_0, dtype)
    shift = centres[0].double() - centres[1].double()
    noise_offset = _offset(noise, centres[0], shift)
    image_offset = _offset(x_0, centres[1], -shift)
    return CentredSet(noise, centres[0], noise_offset), CentredSet(x_0, centres[1], image_offset)


def _offset(rows: Tensor, centre: Tensor, shift: Tensor) -> Tensor:
    offsets = []
    for (chunk,) in float64_chunks(rows):
        centred = (chunk.to(centre.dtype) - centre).double()
        offsets.append((centred * (centred + 2 * shift)).sum(dim=1))
    return torch.cat(offsets).to(centre.dtype)


def _check_squares_fit(noise: Tensor, x_0: Tensor, dtype: torch.dtype) -> None:
    largest = max(float(torch.linalg.vector_norm(rows, ord=torch.inf)) for rows in (noise, x_0))
    limit = math.sqrt(torch.finfo(dtype).max / (16 * noise.shape[1]))
    if largest > limit:
        raise ValueError(
            f"noise and x_0 must stay within {limit:.3g} for squared distances in {dtype}, got {largest:.3g}; "
            "leave diverged samples out or pass float64"
        )


class _NearestSoFar:
    """The k nearest candidates of each query among the tiles seen, nearest first; tiles come in ascending order."""

    def __init__(self, num_queries: int, k: int, like: Tensor) -> None:
        self.scores = like.new_full((num_queries, k), torch.inf)
        self.indices = torch.full((num_queries, k), -1, device=like.device)

    def update(self, first_query: int, first_candidate: int, scores: Tensor) -> None:
        """Merge one tile, (queries, candidates); the tile is overwritten."""
        queries = slice(first_query, first_query + len(scores))
        tile_scores, tile_indices = smallest(scores, self.scores.shape[1])
        all_scores = torch.cat([self.scores[queries], tile_scores], dim=1)
        all_indices = torch.cat([self.indices[queries], tile_indices + first_candidate], dim=1)
        # Stable, and earlier tiles stand first: of equal scores the lower index stays in front.
        order = all_scores.argsort(dim=1, stable=True)[:, : self.scores.shape[1]]
        self.scores[queries] = all_scores.gather(1, order)
        self.indices[queries] = all_indices.gather(1, order)


def smallest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and where they are, the first of equal ones first; ``scores`` is overwritten."""
    # torch.topk orders ties as it likes; argmin returns the first of them, and k passes are cheap beside the product.
    values, indices = [], []
    for _ in range(min(k, scores.shape[1])):
        index = scores.argmin(dim=1, keepdim=True)
        values.append(scores.gather(1, index))
        indices.append(index)
        scores.scatter_(1, index, torch.inf)
    return torch.cat(values, dim=1), torch.cat(indices, dim=1)


def _nearest_both_ways(noise: CentredSet, images: CentredSet, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Indices (N, k) of the nearest images of each noise, and of the nearest noises of each image."""
    num = len(noise.rows)
    images_near = _NearestSoFar(num, k, noise.centre)
    noises_near = _NearestSoFar(num, k, noise.centre)
    # Inside an autocast region the tiles would silently be bfloat16.
    with torch.autocast(noise.rows.device.type, enabled=False):
        for i in range(0, num, chunk_size):
            noise_block = noise.block(i, chunk_size)
            for j in range(0, num, chunk_size):
                product = noise_block @ images.block(j, chunk_size).T
                # A transposed copy: reductions along the fast dimension are several times faster. (contiguous() would
                # hand back the same memory where the tile is one row or one column.)
                transposed = product.T.clone(memory_format=torch.contiguous_format)
                transposed.mul_(-2).add_(noise.offset[i : i + chunk_size])
                noises_near.update(j, i, transposed)
                images_near.update(i, j, product.mul_(-2).add_(images.offset[j : j + chunk_size]))
    return images_near.indices, noises_near.indices
