"""Paths between noises, between latents and between the images made from them."""

import torch
from torch import Tensor

from probediff.measures._rows import angle_between, check_no_zero_rows, first_indices, same_shape_rows, unit_rows
from probediff.measures.hubs import pixel_variance

# Below this angle (radians) sin(angle) has lost so many digits that the straight line is the better arc.
_PARALLEL = 1e-6


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation sin((1 - w) t) / sin(t) a + sin(w t) / sin(t) b, t the angle between a and b.

    Shoemake 1985, each sample flattened; the lengths of a and b enter as they are. Noises and latents of many values
    keep their length on the way, where the straight line would fall to 0.71 of it. Exactly a at `weight` 0 and b at 1;
    between nearly parallel vectors it is the straight line.

    Args:
        a: (N, C, H, W) or (N, D). One shape; any floating dtype.
        b: As `a`.
        weight: 0..1.

    Returns:
        The shape, device and dtype of `a`.

    Raises:
        ValueError: Shapes differ, nothing in them, values not finite, `weight` outside 0..1, a zero vector, or two
            that point in opposite directions.
    """
    a_rows, b_rows = (rows.double() for rows in same_shape_rows(a=a, b=b))
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in 0..1, got {weight}; 0 is a, 1 is b")
    check_no_zero_rows("a direction", a=a_rows, b=b_rows)
    angle = angle_between(unit_rows(a_rows), unit_rows(b_rows))[:, None]
    opposite = (angle > torch.pi - _PARALLEL).flatten()
    if bool(opposite.any()):
        raise ValueError(
            f"a and b must not point in opposite directions, got {int(opposite.sum())} such pairs (first indices: "
            f"{first_indices(opposite)}); no shortest arc joins them"
        )
    parallel = angle < _PARALLEL
    angle = torch.where(parallel, 1.0, angle)
    of_a = torch.where(parallel, 1 - weight, torch.sin((1 - weight) * angle) / torch.sin(angle))
    of_b = torch.where(parallel, weight, torch.sin(weight * angle) / torch.sin(angle))
    return (of_a * a_rows + of_b * b_rows).reshape(a.shape).to(a.dtype)


def slerp_path(a: Tensor, b: Tensor, num_points: int) -> Tensor:
    """`slerp` at evenly spaced weights from 0 to 1, (P, *shape of a).

    Raises:
        ValueError: As `slerp`, or `num_points` under 2.
    """
    if num_points < 2:
        raise ValueError(f"num_points must be at least 2, got {num_points}; both ends belong to the path")
    return torch.stack([slerp(a, b, point / (num_points - 1)) for point in range(num_points)])


def path_lengths(points: Tensor) -> Tensor:
    """Sum of the L2 distances between consecutive points of N paths, (N,) float64.

    Args:
        points: (P, N, ...), P at least 2.

    Raises:
        ValueError: Fewer than 2 points.
    """
    if points.ndim < 2 or len(points) < 2:
        raise ValueError(f"points must be (P, N, ...) with P at least 2, got shape {tuple(points.shape)}; pass a path")
    steps = points.double().diff(dim=0).flatten(2) if points.ndim > 2 else points.double().diff(dim=0)[..., None]
    return torch.linalg.vector_norm(steps, dim=2).sum(dim=0)


def midpoint_contrast(images: Tensor) -> float:
    """Mean standard deviation of the pixels of the middle images of paths, divided by that of the end images.

    Args:
        images: (P, N, C, H, W) or (P, N, D), P odd and at least 3.

    Raises:
        ValueError: Another number of points, values not finite, or constant images at all ends.
    """
    if images.ndim < 3 or len(images) < 3 or len(images) % 2 == 0:
        raise ValueError(f"images must be (P, N, ...) with P odd and at least 3, got shape {tuple(images.shape)}")
    ends = float(pixel_variance(torch.cat([images[0], images[-1]])).sqrt().mean())
    if ends == 0:
        raise ValueError("images must vary at the ends of the paths, got constant ones; pass others")
    return float(pixel_variance(images[len(images) // 2]).sqrt().mean()) / ends
