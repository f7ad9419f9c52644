"""How much of one set of images another explains, with the standard error over images."""

import math

import torch
from torch import Tensor

from probediff.measures._rows import check_num_samples, same_shape_rows
from probediff.measures.uncertainty import WithError, error_of_means, mean_with_error


def isotropic_denoised(noised: Tensor, sigma: float, mean: Tensor, variance: float) -> Tensor:
    """The exact denoiser of N(mean, variance I), which knows nothing of the images but these: mean + g (x - mean).

    It is the null of `explained_share`: a network that takes away no noise and one that answers with the mean image are
    both no better. g = variance / (variance + sigma²).

    Args:
        noised: (N, ...) x = x_0 + sigma eps.
        sigma: Noise level, 0 or more.
        mean: (...) mean image.
        variance: Mean variance of a pixel, above 0.

    Raises:
        ValueError: A level or a variance outside its range.
    """
    if not (sigma >= 0 and variance > 0):
        raise ValueError(f"sigma must be 0 or more and variance above 0, got {sigma} and {variance}; pass others")
    centre = mean.double().to(noised.device)
    return centre + variance / (variance + sigma**2) * (noised.double() - centre)


def explained_share(target: Tensor, prediction: Tensor, null: Tensor) -> WithError:
    """R² = 1 - sum |target - prediction|² / sum |target - null|², the sums over images; centred on a null prediction.

    Args:
        target: (N, D) or (N, C, H, W), N at least 2.
        prediction: Likewise.
        null: Likewise, such as `isotropic_denoised`.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes, fewer than two images, or values not finite.
    """
    t, p, n = same_shape_rows(target=target, prediction=prediction, null=null)
    return share_taken_away(squared_distances(t, p), squared_distances(t, n))


def relative_distance(prediction: Tensor, target: Tensor) -> WithError:
    """sqrt(sum |prediction - target|² / sum |target|²), the sums over images; arguments as of `explained_share`."""
    p, t = same_shape_rows(prediction=prediction, target=target)
    return root_of_ratio(squared_distances(p, t), t.double().square().sum(dim=1))


def explained_variance(network: Tensor, model: Tensor) -> WithError:
    """Mean over images of 1 - |network - model|² / |network|², not centred (Wang & Vastola 2024).

    Args:
        network: (N, D) or (N, C, H, W) images or scores of a network, N at least 2.
        model: Those of a model of it.

    Returns:
        NaN where a vector of the network is zero, such as the score of one that takes away no noise.

    Raises:
        TypeError: No floating-point tensors.
        ValueError: Other shapes, fewer than two images, or values not finite.
    """
    n, m = same_shape_rows(network=network, model=model)
    check_num_samples("network", len(n), 2, "a standard error")
    squares = n.double().square().sum(dim=1)
    shares = 1 - squared_distances(n, m) / torch.where(squares > 0, squares, torch.nan)
    return mean_with_error(shares)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N,) squared distances of rows."""
    return (a.double() - b.double()).square().sum(dim=1)


def share_taken_away(left: Tensor, whole: Tensor) -> WithError:
    """1 - sum left / sum whole, of (N,) squares each."""
    ratio = ratio_of_sums(left, whole)
    return WithError(1 - ratio.value, ratio.error)


def root_of_ratio(numerator: Tensor, denominator: Tensor) -> WithError:
    """sqrt(sum numerator / sum denominator), of (N,) squares each."""
    ratio = ratio_of_sums(numerator, denominator)
    root = math.sqrt(ratio.value)
    return WithError(root, ratio.error / (2 * root) if root else 0.0)


def ratio_of_sums(numerator: Tensor, denominator: Tensor) -> WithError:
    """Ratio of the sums of (N,) numbers, with the delete-one jackknife's standard error."""
    check_num_samples("images", len(numerator), 2, "a standard error")
    if not bool(denominator.any()):
        return WithError(math.nan, math.nan)
    error = error_of_means(lambda means: means[0] / means[1], numerator, denominator)
    return WithError(float(numerator.sum() / denominator.sum()), error)
