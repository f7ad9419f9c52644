"""How alike two sets of samples are: CKA, SVCCA, SSIM and cosine similarity (P1, figure 6).

P1 is *There and Back Again*.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from probediff.measures._rows import (
    CHUNK_ELEMENTS,
    centred_columns,
    check_at_least,
    check_no_zero_rows,
    check_num_samples,
    float64_chunks,
    same_length_rows,
    same_shape_rows,
    standardised_columns,
    unit_rows,
)

_SSIM_WINDOW = 7
# Below this fraction of its own biased value the debiased HSIC of a set with itself is rounding.
_HSIC_FLOOR = 1e-12


def cosine_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between x[i] and y[i], (N,) float64.

    Args:
        x: (N, C, H, W) or (N, D). One shape; any floating dtype.
        y: As `x`.

    Raises:
        ValueError: Shapes differ, nothing in them, values not finite, or a vector is zero.
    """
    x_rows, y_rows = same_shape_rows(x=x, y=y)
    check_no_zero_rows("a cosine", x=x_rows, y=y_rows)
    chunks = float64_chunks(x_rows, y_rows)
    cosines = torch.cat([(unit_rows(a) * unit_rows(b)).sum(dim=1) for a, b in chunks])
    return cosines.clamp(-1.0, 1.0)


def image_r2(x: Tensor, reference: Tensor) -> Tensor:
    """How much of each reference image an image explains: R², (N,) float64, 1 where they are equal.

    1 - |x - r|^2 / |r - mean(r)|^2 with the mean over the values of the image, as analytic denoisers are compared with
    networks (Lukoianov et al. 2025, which divide by the variance of the prediction). It has no lower limit.

    Args:
        x: (N, C, H, W) or (N, D).
        reference: As `x`.

    Raises:
        ValueError: Shapes differ, nothing in them, values not finite, or a reference whose values are all equal.
    """
    x_rows, r_rows = same_shape_rows(x=x, reference=reference)
    parts = []
    for a, r in float64_chunks(x_rows, r_rows):
        spread = (r - r.mean(dim=1, keepdim=True)).square().sum(dim=1)
        if not bool((spread > 0).all()):
            raise ValueError("reference must have images whose values differ, got one of a single value; leave it out")
        parts.append(1 - (a - r).square().sum(dim=1) / spread)
    return torch.cat(parts)


def cka(x: Tensor, y: Tensor, debiased: bool = False) -> float:
    """Linear centred kernel alignment of two representations of the same N samples (Kornblith et al. 2019, eq. 1).

    Biased CKA is |X^T Y|^2 / (|X^T X| |Y^T Y|) with centred columns and Frobenius norms; it is in 0..1 and grows
    with D / N even for independent sets. The debiased one puts the unbiased HSIC of Song et al. 2012 (eq. 5) in
    place of each norm; it is 0 on average for independent sets and can be negative. Both are invariant to rotation
    and to isotropic scale. Summed in float64, in the space of features or of samples, whichever costs less; no
    N x N matrix is kept.

    Args:
        x: (N, D) or (N, C, H, W).
        y: (N, E) or (N, C, H, W).
        debiased: Needs N at least 4.

    Raises:
        ValueError: Different N, wrong rank, nothing in them, values not finite, a set without variance, or N < 4 with
            `debiased`.
    """
    x, y = same_length_rows(x=x, y=y)
    if debiased:
        check_num_samples("x and y", len(x), 4, "debiased CKA")
    x, y = centred_columns(x), centred_columns(y)
    for name, rows in (("x", x), ("y", y)):
        if not rows.any():
            raise ValueError(f"{name} must vary over the {len(rows)} samples, got a constant; CKA is undefined there")
    xx, xy, yy = _kernel_products(x, y)
    if debiased:
        xx, xy, yy = _debias(x, y, xx, xy, yy)
    return xy / math.sqrt(xx) / math.sqrt(yy)


def _debias(x: Tensor, y: Tensor, xx: float, xy: float, yy: float) -> tuple[float, float, float]:
    """Unbiased HSIC (Song et al. 2012, eq. 5) times N (N - 3), from the sums over full centred Gram matrices.

    With centred rows the Gram matrices have zero row sums, so without its diagonal s a matrix has row sums -s, and
    eq. 5 becomes sum(K * L) - N / (N - 2) s.t + sum(s) sum(t) / ((N - 1) (N - 2)).
    """
    num = len(x)
    s, t = x.square().sum(dim=1), y.square().sum(dim=1)

    def correction(a: Tensor, b: Tensor) -> float:
        return float(a.sum() * b.sum() / (num - 1) - num * (a @ b)) / (num - 2)

    debiased = xx + correction(s, s), xy + correction(s, t), yy + correction(t, t)
    for name, value, biased in (("x", debiased[0], xx), ("y", debiased[2], yy)):
        if value <= _HSIC_FLOOR * biased:
            raise ValueError(
                f"{name} must hold samples at different distances, got all equally far apart; "
                "debiased CKA is undefined there, pass other samples or debiased=False"
            )
    return debiased


def _kernel_products(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Sums over all entries of K * K, K * L and L * L for the Gram matrices K = X X^T, L = Y Y^T."""
    num, d, e = len(x), x.shape[1], y.shape[1]
    in_features, in_samples = d * d + d * e + e * e, num * (d + e) // 2
    sums = _products_by_features(x, y) if in_features < in_samples else _products_by_samples(x, y)
    xx, xy, yy = sums.tolist()
    return xx, xy, yy


def _products_by_features(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_cross_square(x, x), _cross_square(x, y), _cross_square(y, y)])


def _cross_square(x: Tensor, y: Tensor) -> Tensor:
    """|X^T Y|_F^2, over blocks of the columns of X."""
    blocks = torch.split(x, max(1, CHUNK_ELEMENTS // y.shape[1]), dim=1)
    return torch.stack([torch.linalg.vector_norm(block.T @ y).square() for block in blocks]).sum()


def _products_by_samples(x: Tensor, y: Tensor) -> Tensor:
    """Row chunks of both Gram matrices; they are symmetric, so only the upper triangle is made and counted twice."""
    size = max(1, min(1024, CHUNK_ELEMENTS // len(x)))
    sums = x.new_zeros(3)
    for start in range(0, len(x), size):
        gram_x = x[start : start + size] @ x[start:].T
        gram_y = y[start : start + size] @ y[start:].T
        for gram in (gram_x, gram_y):
            # The square on the diagonal is counted once, the rest stands for its mirror image too.
            gram[:, size:] *= math.sqrt(2)
        sums += torch.stack([gram_x.square().sum(), (gram_x * gram_y).sum(), gram_y.square().sum()])
    return sums


def svcca(x: Tensor, y: Tensor, num_directions: int = 10) -> float:
    """Mean canonical correlation between the leading singular subspaces of two sets (Raghu et al. 2017).

    Columns are standardised (a constant one contributes zero); the leading left singular vectors come from a
    decomposition of the smaller Gram matrix in float64. Those vectors are orthonormal and centred, so the canonical
    correlations are exactly the singular values of U_x^T U_y: nothing is random, no noise is added. Where the last
    direction's singular value is repeated the subspace, and with it the value, is not unique.

    Args:
        x: (N, D) or (N, C, H, W).
        y: (N, E) or (N, C, H, W).
        num_directions: Singular vectors kept of each set; under N, and at most the rank of each set.

    Raises:
        ValueError: Different N, wrong rank, nothing in them, values not finite, N <= `num_directions`, or a set of
            lower rank.
    """
    x, y = same_length_rows(x=x, y=y)
    check_at_least("num_directions", num_directions, 1)
    if len(x) <= num_directions:
        raise ValueError(
            f"num_directions must be under the number of samples {len(x)}, got {num_directions}; "
            "lower it or pass more samples"
        )
    u_x, u_y = (_leading_directions(name, rows, num_directions) for name, rows in (("x", x), ("y", y)))
    correlations = torch.linalg.svdvals(u_x.T @ u_y)
    return float(correlations.clamp(max=1.0).mean())


def _leading_directions(name: str, rows: Tensor, num_directions: int) -> Tensor:
    """The leading left singular vectors of the standardised columns, (N, num_directions) float64."""
    columns = standardised_columns(rows)
    narrow = columns.shape[1] <= columns.shape[0]
    eigenvalues, vectors = torch.linalg.eigh(columns.T @ columns if narrow else columns @ columns.T)
    floor = max(columns.shape) * torch.finfo(torch.float64).eps * eigenvalues[-1]
    rank = int((eigenvalues > floor).sum())
    if rank < num_directions:
        raise ValueError(
            f"num_directions must be at most the rank of {name}, {rank} after centring, got {num_directions}; "
            f"lower it or pass {name} with more variation"
        )
    leading: Tensor = vectors[:, -num_directions:]
    if not narrow:
        return leading
    # The product with small singular values loses orthogonality to rounding; QR restores it within the same subspace.
    basis: Tensor = torch.linalg.qr(columns @ leading).Q
    return basis


def ssim(x: Tensor, y: Tensor, black: float = -1.0, white: float = 1.0) -> Tensor:
    """Structural similarity of x[i] and y[i], averaged over pixels and channels, (N,) float64 (Wang et al. 2004).

    Its luminance term compares intensities, which begin at 0 for black: the values are first mapped to 0..1. (On
    [-1, 1] as it is, constants of 0.1 and -0.1, two middle greys, would get -0.96; they get 0.98.) A uniform 7 x 7
    window, sample covariance, windows that lie inside the image, K1 = 0.01 and K2 = 0.03: the defaults of
    scikit-image, on [0, 1] with its data_range 1. Two equal images give 1, constant ones included. Computed in float64,
    in chunks over N.

    Args:
        x: (N, C, H, W). One shape, H and W at least 7.
        y: As `x`.
        black: The value of black, -1 for images in [-1, 1].
        white: The value of white.

    Raises:
        ValueError: Shapes differ, not (N, C, H, W), smaller than 7 pixels, values not finite, or `black` not below
            `white`.
    """
    x_rows, y_rows = same_shape_rows(x=x, y=y)
    if x.ndim != 4 or min(x.shape[2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"x and y must be (N, C, H, W) with H and W at least {_SSIM_WINDOW}, got shape {tuple(x.shape)}; "
            "pass larger images"
        )
    if not (math.isfinite(black) and math.isfinite(white) and black < white):
        raise ValueError(f"black must be below white, got {black} and {white}; they are -1 and 1 for images in [-1, 1]")
    shape = (-1, *x.shape[1:])
    chunks = ([(part - black) / (white - black) for part in pair] for pair in float64_chunks(x_rows, y_rows))
    return torch.cat([_chunk_ssim(a.reshape(shape), b.reshape(shape)) for a, b in chunks])


def _chunk_ssim(x: Tensor, y: Tensor) -> Tensor:
    c1, c2 = 0.01**2, 0.03**2
    sample = _SSIM_WINDOW**2 / (_SSIM_WINDOW**2 - 1)
    # Moments around the first pixel: they are then exactly zero for a constant image, whatever its value.
    first_x, first_y = x[..., :1, :1], y[..., :1, :1]
    x, y = x - first_x, y - first_y
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = sample * (_window_mean(x * x) - mean_x * mean_x)
    var_y = sample * (_window_mean(y * y) - mean_y * mean_y)
    covariance = sample * (_window_mean(x * y) - mean_x * mean_y)
    mean_x, mean_y = mean_x + first_x, mean_y + first_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _window_mean(images: Tensor) -> Tensor:
    # The window is separable: two passes of 7 instead of one of 49.
    rows = avg_pool2d(images, kernel_size=(1, _SSIM_WINDOW), stride=1)
    return avg_pool2d(rows, kernel_size=(_SSIM_WINDOW, 1), stride=1)
