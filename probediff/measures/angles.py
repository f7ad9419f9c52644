"""The triangle of noise, sample and latent: its angles, its sides and its most probable shape (P1, figures 2 and 4).

P1 is *There and Back Again*.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from probediff.measures._rows import angle_between, first_indices, float64_chunks, same_shape_rows, unit_rows
from probediff.measures.similarity import cosine_similarity

# Rounding moves the sum of three computed angles by 1e-13; more than this means that they are no triangle's.
_SUM_TOLERANCE_DEG = 1e-3


@dataclass(frozen=True)
class TriangleAngles:
    """Angles in degrees at the three vertices, each (N,) float64; they sum to 180 in every sample."""

    at_noise_deg: Tensor
    at_image_deg: Tensor
    at_latent_deg: Tensor


@dataclass(frozen=True)
class TriangleDistances:
    """L2 norms of the three sides, each (N,) float64, in the units of the pixels."""

    noise_image: Tensor
    image_latent: Tensor
    noise_latent: Tensor


class MostProbableTriangle(NamedTuple):
    """Whole degrees that sum to 180, and the product of their three marginal probabilities."""

    at_noise_deg: int
    at_image_deg: int
    at_latent_deg: int
    probability: float


def triangle_angles(noise: Tensor, x_0: Tensor, latent: Tensor) -> TriangleAngles:
    """Angles of each sample's noise-image-latent triangle, in degrees (P1, section on the geometry of inversion).

    Computed with Kahan's formula 2 atan2(|u - v|, |u + v|) for unit edges u and v, which keeps full accuracy near 0
    and 180 degrees, where acos loses half of its digits. Aggregate afterwards: the mean of these angles is not
    `angle_of_mean_cosine`.

    Args:
        noise: (N, C, H, W) or (N, D). One shape; any floating dtype.
        x_0: As `noise`.
        latent: As `noise`.

    Raises:
        ValueError: Shapes differ, nothing in them, values not finite, or two vertices of a triangle coincide.
    """
    noise, x_0, latent = same_shape_rows(noise=noise, x_0=x_0, latent=latent)
    _check_apart(noise=noise, x_0=x_0, latent=latent)
    angles = [_chunk_angles(*chunk) for chunk in float64_chunks(noise, x_0, latent)]
    at_noise, at_image, at_latent = torch.cat(angles, dim=1)
    return TriangleAngles(at_noise, at_image, at_latent)


def _chunk_angles(noise: Tensor, x_0: Tensor, latent: Tensor) -> Tensor:
    noise_to_image, image_to_latent, latent_to_noise = (
        unit_rows(x_0 - noise),
        unit_rows(latent - x_0),
        unit_rows(noise - latent),
    )
    # The sides run round the triangle, so at each vertex one of the two has to be turned to point away from it.
    angles = [
        angle_between(noise_to_image, -latent_to_noise),
        angle_between(-noise_to_image, image_to_latent),
        angle_between(-image_to_latent, latent_to_noise),
    ]
    return torch.rad2deg(torch.stack(angles))


def _check_apart(**vertices: Tensor) -> None:
    names = list(vertices)
    complaints = []
    for first, second in [(names[0], names[1]), (names[1], names[2]), (names[0], names[2])]:
        chunks = float64_chunks(vertices[first], vertices[second])
        same = torch.cat([(a == b).all(dim=1) for a, b in chunks])
        if same.any():
            complaints.append(
                f"{first} and {second} coincide in {int(same.sum())} of {len(same)} samples "
                f"(first indices: {first_indices(same)})"
            )
    if complaints:
        raise ValueError(
            "noise, x_0 and latent must be three different points in every sample, got: "
            f"{'; '.join(complaints)}; an angle is undefined there, leave these samples out"
        )


def triangle_distances(noise: Tensor, x_0: Tensor, latent: Tensor) -> TriangleDistances:
    """L2 length of the sides of each sample's noise-image-latent triangle (P1, figure 4).

    Args:
        noise: (N, C, H, W) or (N, D). One shape; any floating dtype.
        x_0: As `noise`.
        latent: As `noise`.

    Raises:
        ValueError: Shapes differ, nothing in them, or values not finite.
    """
    noise, x_0, latent = same_shape_rows(noise=noise, x_0=x_0, latent=latent)
    sides = [
        torch.stack([torch.linalg.vector_norm(side, dim=1) for side in (n - x, x - z, n - z)])
        for n, x, z in float64_chunks(noise, x_0, latent)
    ]
    noise_image, image_latent, noise_latent = torch.cat(sides, dim=1)
    return TriangleDistances(noise_image, image_latent, noise_latent)


def angle_of_mean_cosine(a: Tensor, b: Tensor) -> float:
    """Angle in degrees whose cosine is the mean cosine between the rows of two sets of vectors.

    This is what P1's authors print as "mean angle". It is not the mean of the angles (acos is not linear), hence
    the name; use `triangle_angles` for a mean and a standard deviation over samples.

    Args:
        a: (N, C, H, W) or (N, D). Edge vectors, for instance `noise - x_0`.
        b: As `a`, for instance `latent - x_0`.

    Raises:
        ValueError: Shapes differ, nothing in them, values not finite, or a vector is zero.
    """
    mean_cosine = float(cosine_similarity(a, b).mean())
    return math.degrees(math.acos(max(-1.0, min(1.0, mean_cosine))))


def most_probable_triangle(angles: TriangleAngles) -> MostProbableTriangle:
    """The triangle of whole degrees that maximises the product of the three marginal histograms (P1, figure 2).

    The bins are one degree wide and centred on whole degrees, 0 to 180: 89.6 counts as 90. (The authors' bins start
    at whole degrees, so theirs counts as 89.) Among equally probable triangles the nearest to the mean angles is
    taken. Where no triangle has a positive product, as happens with few samples, the answer is the mean angles
    rounded to a sum of 180, with probability 0.

    Raises:
        ValueError: The angles are not three (N,) tensors of triangles' angles, or N = 0.
    """
    stacked = _check_angles(angles)
    counts = torch.stack([torch.bincount(a, minlength=181) for a in torch.floor(stacked + 0.5).long()]).double()
    degrees = torch.arange(181, device=stacked.device)
    rest = 180 - degrees[:, None] - degrees[None, :]
    product = counts[0][:, None] * counts[1][None, :] * counts[2][rest.clamp(min=0)] * (rest >= 0)
    mean = stacked.mean(dim=1)
    best = product.max()
    if best == 0:
        return MostProbableTriangle(*_round_to_180(mean.tolist()), probability=0.0)
    winners = (product == best).nonzero()
    winners = torch.cat([winners, 180 - winners.sum(dim=1, keepdim=True)], dim=1)
    nearest = int((winners - mean).square().sum(dim=1).argmin())
    at_noise, at_image, at_latent = winners[nearest].tolist()
    return MostProbableTriangle(at_noise, at_image, at_latent, probability=float(best) / stacked.shape[1] ** 3)


def _check_angles(angles: TriangleAngles) -> Tensor:
    fields = (angles.at_noise_deg, angles.at_image_deg, angles.at_latent_deg)
    shapes = {tuple(field.shape) for field in fields}
    if len(shapes) != 1 or fields[0].ndim != 1 or len(fields[0]) == 0:
        raise ValueError(f"angles must hold three (N,) tensors with N > 0, got shapes {sorted(shapes)}; pass one set")
    stacked = torch.stack([field.detach().double() for field in fields])
    off_deg = (stacked.sum(dim=0) - 180).abs()
    bad = ~((stacked >= 0).all(dim=0) & (off_deg <= _SUM_TOLERANCE_DEG))
    if bad.any():
        raise ValueError(
            f"angles must lie in 0..180 degrees and sum to 180 in every sample, got {int(bad.sum())} others "
            f"(first indices: {first_indices(bad)}); take them from triangle_angles"
        )
    return stacked


def _round_to_180(mean_deg: list[float]) -> tuple[int, int, int]:
    whole = [math.floor(angle) for angle in mean_deg]
    by_remainder = sorted(range(3), key=lambda vertex: whole[vertex] - mean_deg[vertex])
    for vertex in by_remainder[: 180 - sum(whole)]:
        whole[vertex] += 1
    return whole[0], whole[1], whole[2]
