"""Standard errors of W_diff: what it is, how far from whitenings and how white it leaves images without each group.

P2, whose equation 9 W_diff is: *First-step inference in diffusion models learns image de-whitening*.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from probediff.measures.covariance import PairedMoments
from probediff.measures.uncertainty import NUM_GROUPS, jackknife_errors
from probediff.measures.whitening import deviation_from_identity, matrix_distance

#: Values of an image up to which twenty linear systems are solved: minutes at this size, hours at four times that.
LARGEST_SIZE = 4096
_ROUNDING = 1e-11
_SMALLEST = torch.finfo(torch.float64).tiny


def measure_whiteness(covariance: Tensor) -> dict[str, float]:
    """How far the (D, D) covariance of W x is from the identity, as it is and scaled to a mean variance of 1."""
    plain = deviation_from_identity(covariance)
    scaled = deviation_from_identity(covariance / max(plain.mean_variance, _SMALLEST))
    return plain._asdict() | {f"scaled_{key}": value for key, value in scaled._asdict().items()}


def measure_distance(matrix: Tensor, w_diff: Tensor) -> dict[str, float]:
    """How far a transform is from W_diff, and in which direction: both norms, and the cosine of their entries."""
    cosine = float((matrix * w_diff).sum() / (matrix.norm() * w_diff.norm()))
    return matrix_distance(matrix, w_diff)._asdict() | {"cosine": cosine}


def transform_errors(
    images: Tensor, eps: Tensor, pairs: PairedMoments, ridge: float, matrices: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Standard errors over images by the delete-a-group jackknife, which fits W_diff anew without each group.

    Args:
        images: (N, C, H, W).
        eps: (N, C, H, W) their noises.
        pairs: their moments.
        ridge: share of the mean variance that is added to the variance of every value.
        matrices: (D, D) transforms by name, which count as given.

    Returns:
        Of ``measure_distance`` under the name of each transform, and of ``measure_whiteness`` under ``whiteness``;
        empty where a set without a group has too few different images, or an image more than 4,096 values.
    """
    num, size = pairs.x.num_samples, len(pairs.x.mean)
    too_few = num - num // NUM_GROUPS - 1 <= size + 1 and ridge == 0
    if too_few or num < NUM_GROUPS or size > LARGEST_SIZE:
        return {}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*matrices, "whiteness")}
    try:
        for w_diff, covariance in _fits_without_groups(images, eps, pairs, ridge):
            found["whiteness"].append(measure_whiteness(covariance))
            for name, matrix in matrices.items():
                found[name].append(measure_distance(matrix, w_diff))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # its module does not list it
        return {}
    return {name: jackknife_errors(values) for name, values in found.items()}


def _fits_without_groups(
    images: Tensor, eps: Tensor, pairs: PairedMoments, ridge: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """W_diff without each group, and the covariance of what it makes of the images that are left."""
    num, size = pairs.x.num_samples, len(pairs.x.mean)
    for group in range(NUM_GROUPS):
        x = images[group::NUM_GROUPS].flatten(1).to(pairs.x.mean) - pairs.x.mean
        z = eps[group::NUM_GROUPS].flatten(1).to(pairs.x.mean) - pairs.z_mean
        left = num - len(x)
        # Around the mean of all images, that of those which are left is not zero.
        shift_x, shift_z = -x.sum(dim=0) / left, -z.sum(dim=0) / left
        covariance = pairs.x.covariance * (num - 1) - x.T @ x - left * torch.outer(shift_x, shift_x)
        cross = pairs.cross_covariance * (num - 1) - x.T @ z - left * torch.outer(shift_x, shift_z)
        covariance, cross = covariance / (left - 1), cross / (left - 1)
        scale = covariance.diagonal().mean() * torch.eye(size).to(covariance)
        # Raises LinAlgError where a direction has no more variance than rounding leaves.
        torch.linalg.cholesky(covariance + (ridge - _ROUNDING) * scale)
        w_diff = torch.linalg.solve(covariance + ridge * scale, cross).T
        yield w_diff, w_diff @ covariance @ w_diff.T
