"""P1's authors' own way of computing, where it differs from ours: only to compare with the published numbers.

`angle_of_mean_cosine`, the one such number that has a use of its own, lives with the angles.

P1 is *There and Back Again*.
"""

import math

import torch
from torch import Tensor

from probediff.measures._rows import as_rows, check_at_least, check_num_samples, same_length_rows
from probediff.measures.angles import MostProbableTriangle, TriangleAngles
from probediff.measures.plain_areas import PLAIN_THRESHOLD
from probediff.measures.similarity import cosine_similarity, ssim

_CKA_EPSILON = 1e-6


def angle_of_std_cosine(a: Tensor, b: Tensor) -> float:
    """Angle in degrees whose cosine is the standard deviation of the cosines (dividing by N - 1).

    The authors print it as the standard deviation of the angles, which it is not: no spread at all gives 90 degrees,
    a standard deviation of 0.02 gives 88.9. Ours: the standard deviation of `triangle_angles`.

    Args:
        a: (N, C, H, W) or (N, D), N at least 2. Edge vectors.
        b: As `a`.

    Raises:
        ValueError: N under 2, or as `cosine_similarity`.
    """
    cosines = cosine_similarity(a, b)
    check_num_samples("a and b", len(cosines), 2, "a standard deviation")
    return math.degrees(math.acos(min(1.0, float(cosines.std()))))


def without_last_batch(images: Tensor, batch_size: int) -> Tensor:
    """The samples that the authors' loops keep: the last, incomplete batch is dropped. Ours: all samples.

    Args:
        images: (N, ...).
        batch_size: Samples in a batch.

    Raises:
        ValueError: `batch_size` under 1, or over N (nothing would be left).
    """
    check_at_least("batch_size", batch_size, 1)
    if batch_size > len(images):
        raise ValueError(f"batch_size must be at most the {len(images)} samples, got {batch_size}; nothing is left")
    return images[: len(images) // batch_size * batch_size]


def min_max_scaled(images: Tensor) -> Tensor:
    """(x - min) / (max - min) over the whole set at once, so that one outlier changes every image. Ours: no scaling.

    Args:
        images: (N, C, H, W) or (N, D).

    Raises:
        ValueError: A constant set, wrong rank, nothing in it, or values not finite.
    """
    as_rows("images", images)
    low, high = torch.aminmax(images)
    if low == high:
        raise ValueError("images must vary to be scaled to 0..1, got one constant; pass other images")
    return (images - low) / (high - low)


def ssim_min_max(x: Tensor, y: Tensor) -> float:
    """Mean SSIM of two sets, each min-max scaled as a whole, 0 black and 1 white. Ours: `ssim` of [-1, 1] images.

    Args:
        x: (N, C, H, W). One shape, H and W at least 7.
        y: As `x`.

    Raises:
        ValueError: As `min_max_scaled` and `ssim`.
    """
    return float(ssim(min_max_scaled(x), min_max_scaled(y), black=0.0).mean())


def cka_min_max(x: Tensor, y: Tensor, unbiased: bool = False) -> float:
    """Linear CKA of min-max scaled sets with 1e-6 added to the denominator, as in the platonic-rep code.

    Biased HSIC is trace(K H L H), unbiased HSIC Song et al. 2012, eq. 5, so that 1e-6 weighs differently in the two.
    N x N matrices are kept, in float64. Ours: `cka`, which does not depend on the scale.

    Args:
        x: (N, D) or (N, C, H, W).
        y: (N, E) or (N, C, H, W).
        unbiased: The authors' "unbiased CKA"; needs N at least 4. NaN where an HSIC product is negative.

    Raises:
        ValueError: Different N, N < 4 with `unbiased`, or as `min_max_scaled`.
    """
    x, y = (min_max_scaled(rows.double()) for rows in same_length_rows(x=x, y=y))
    if unbiased:
        check_num_samples("x and y", len(x), 4, "unbiased CKA")
    k, l_ = x @ x.T, y @ y.T
    hsic = _hsic_unbiased if unbiased else _hsic_biased
    return float(hsic(k, l_) / ((hsic(k, k) * hsic(l_, l_)).sqrt() + _CKA_EPSILON))


def _hsic_biased(k: Tensor, l_: Tensor) -> Tensor:
    centred = k - k.mean(dim=0) - k.mean(dim=1, keepdim=True) + k.mean()
    return (centred * l_).sum()


def _hsic_unbiased(k: Tensor, l_: Tensor) -> Tensor:
    num = len(k)
    k, l_ = k - torch.diag(k.diagonal()), l_ - torch.diag(l_.diagonal())
    total = (k * l_).sum() + k.sum() * l_.sum() / ((num - 1) * (num - 2))
    return (total - 2 / (num - 2) * (k.sum(dim=0) @ l_.sum(dim=1))) / (num * (num - 3))


def svcca_randomised(x: Tensor, y: Tensor, num_directions: int = 10, seed: int = 0) -> float:
    """SVCCA of min-max scaled sets with a randomised SVD, in float32, as in the platonic-rep code.

    The authors' SVD has no seed and they add noise of 1e-10 to the canonical variates; here the seed is an argument,
    no noise is added, and the canonical correlations come from a singular value decomposition instead of
    scikit-learn's iterations. Random states are left as they were. Ours: `svcca`, which is exact.

    Args:
        x: (N, D) or (N, C, H, W).
        y: (N, E) or (N, C, H, W).
        num_directions: Singular vectors kept of each set; under N, D and E.
        seed: Of the randomised SVD.

    Raises:
        ValueError: Different N, too many directions, or as `min_max_scaled`.
    """
    # On the CPU: a GPU would draw other numbers from the seed, and its random state would not be put back.
    x, y = (min_max_scaled(rows.float().cpu()) for rows in same_length_rows(x=x, y=y))
    check_at_least("num_directions", num_directions, 1)
    if num_directions >= min(*x.shape, *y.shape):
        raise ValueError(
            f"num_directions must be under the numbers of samples and values {tuple(x.shape)}, {tuple(y.shape)}, got "
            f"{num_directions}; lower it or pass more samples"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bases = [_leading_randomised(rows, num_directions) for rows in (x, y)]
    u_x, u_y = (torch.linalg.qr((basis - basis.mean(dim=0)).double()).Q for basis in bases)
    return float(torch.linalg.svdvals(u_x.T @ u_y).clamp(max=1.0).mean())


def _leading_randomised(rows: Tensor, num_directions: int) -> Tensor:
    centred = rows - rows.mean(dim=0)
    basis: Tensor = torch.svd_lowrank(centred / (centred.std(dim=0) + 1e-8), q=num_directions)[0]
    return basis


def plain_areas_open_border(images: Tensor, threshold: float = PLAIN_THRESHOLD) -> Tensor:
    """The authors' plain areas, (N, H, W) bool: the difference to a neighbour beyond the border counts as 0.

    So the last row and column are plain twice as easily, and the corner always. The threshold is in the units of
    whatever range the images have: 0.025 is 3.2 of 256 grey levels for [-1, 1] and 6.4 for [0, 1]. Ours:
    `plain_areas`, whose border looks at the neighbours it has.

    Args:
        images: (N, C, H, W).
        threshold: In the units of the pixels.

    Raises:
        ValueError: Another rank, nothing in it, or values not finite.
    """
    as_rows("images", images)
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got shape {tuple(images.shape)}; reshape them")
    sums = torch.zeros_like(images)
    sums[:, :, :-1] += images.diff(dim=2).abs()
    sums[..., :-1] += images.diff(dim=3).abs()
    return (sums / 2 < threshold).all(dim=1)


def most_probable_triangle_floored(angles: TriangleAngles) -> MostProbableTriangle:
    """The most probable triangle from histograms whose bins start at whole degrees, so that 89.6 counts as 89.

    Bins run over 1 to 179 degrees, angles outside are not counted, and of equally probable triangles the one with
    the smallest angle at the latent, then at the image, is taken. Ours: `most_probable_triangle`, whose bins are
    centred on whole degrees.

    Args:
        angles: From `triangle_angles`.

    Raises:
        ValueError: No triangle of whole degrees has a positive probability.
    """
    fields = (angles.at_latent_deg, angles.at_image_deg, angles.at_noise_deg)
    latent, image, noise = (_floored_histogram(field.detach().double()) for field in fields)
    degrees = torch.arange(180, device=latent.device)
    rest = 180 - degrees[:, None] - degrees[None, :]
    product = latent[:, None] * image[None, :] * noise[rest.clamp(0, 179)] * (rest >= 0)
    best = product.max()
    if not best > 0:
        raise ValueError("angles must make some triangle of whole degrees probable, got none; pass more samples")
    # Floored angles sum to 180 or less, so the product is positive only for samples of different triangles.
    at_latent, at_image = divmod(int((product.flatten() == best).nonzero()[0]), 180)
    return MostProbableTriangle(180 - at_latent - at_image, at_image, at_latent, float(best))


def _floored_histogram(angles_deg: Tensor) -> Tensor:
    """(180,) probabilities of the bins that start at 0..179 degrees; the one at 178 includes 179 itself."""
    kept = angles_deg[(angles_deg >= 1) & (angles_deg <= 179)]
    counts = torch.bincount(kept.clamp(max=178).floor().long(), minlength=180).double()
    return counts / counts.sum().clamp(min=1)
