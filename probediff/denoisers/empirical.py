"""One family of exact denoisers, from the Gaussian of the training images to the training images themselves."""

from __future__ import annotations

import copy
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from probediff.denoisers.gaussian import check_images, check_query, in_full_precision, register_levels
from probediff.measures.covariance import Moments, moments
from probediff.schedule import NoiseSchedule

_CHUNK = 4096
_FEW_WEIGHTS = 1 << 22


class SmoothedEmpiricalDenoiser(nn.Module):
    """`eps_model` that is optimal for the training images, smoothed by a Gaussian of their own covariance.

    The law, with m and S the mean and the covariance of the training images and h the bandwidth:

        x_0 = m + sqrt(1 - h^2) (x_i - m) + h z,   i uniform over the training images,   z from N(0, S).

    For every h it has mean m and covariance S, if these are those of the x_i. h = 1 is the Gaussian of
    `GaussianDenoiser`; h = 0 is the training set, whose denoiser knows nothing but these images. With a = alpha_bar,
    c = sqrt(1 - h^2), the eigenvalues s of S, and images y_i and r = x_t - sqrt(a) m in the eigenbasis of S, the
    posterior is a mixture of one Gaussian an image:

        p_i = softmax_i(sqrt(a) c r . (w y_i) - a c^2 / 2 y_i . (w y_i)),   w = 1 / (a h^2 s + 1 - a),
        eps = sqrt(1 - a) w (r - sqrt(a) c sum_i p_i y_i).

    An evaluation is two products of (B, D) and (D, M) matrices; with `mirrored` they serve M mirror images too, as an
    image's symmetric and antisymmetric parts differ by a sign there. The module has the dtype of the images; in
    float32 the exponents have seven digits, which near t = 0 tell apart images that are not nearly the same.

    Args:
        images: (M, C, H, W) floating point, in the range the denoiser will see, [-1, 1]; M at least 2.
        bandwidth: h in [0, 1].
        schedule: Noise schedule whose alpha_bar the timesteps index.
        mirrored: Whether each image counts with its mirror image, as for a network whose training flips them.
        dropped_weight: Images may be passed over as long as the p_i of an evaluation that are lost add up to less than
            this, which moves a denoised image by less than this times sqrt(1 - h^2) times the largest distance between
            two training images. It saves up to half of the time; with 0 only images of weight 0 are passed over.
        statistics: m and S, where the images are only a part of a larger set; by default their own. With fewer images
            than values their own S is singular, and what it smooths by leaves most directions as they are.

    Attributes:
        mean: (D,) m; eigenvalues (D,) s; eigenvectors (D, D), in columns. The divisor of S is M - 1, also for
            mirrored images (as of `probediff probe --denoiser gaussian`).
        points: (M, D), the images y_i.

    Raises:
        TypeError: When the images are not floating point.
        ValueError: On fewer than two images, other shapes, or numbers outside their range.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    points: Tensor
    signal_variance: Tensor
    noise_variance: Tensor

    def __init__(
        self,
        images: Tensor,
        bandwidth: float,
        schedule: NoiseSchedule,
        mirrored: bool = False,
        dropped_weight: float = 0.0,
        statistics: Moments | None = None,
    ) -> None:
        super().__init__()
        check_images(images)
        images = images.detach()
        if statistics is not None and statistics.mean.shape != images[0].flatten().shape:
            raise ValueError(
                f"statistics must be of images of {images[0].numel()} values, got {len(statistics.mean)}: take the "
                "moments of the set that the images are a part of"
            )
        if not 0 <= dropped_weight < 1:
            raise ValueError(f"dropped_weight must lie in [0, 1), got {dropped_weight}: 1e-6 changes nothing visible")
        self.bandwidth = _check_bandwidth(bandwidth)
        self.mirrored = mirrored
        self.dropped_weight = dropped_weight
        estimate = moments(images.split(_CHUNK)) if statistics is None else statistics
        mean, eigenvalues, eigenvectors, self._num_symmetric = _eigenbasis(estimate, images.shape[1:], mirrored)
        rotation = eigenvectors.to(images)
        points = torch.empty(len(images), len(mean), dtype=images.dtype, device=images.device)
        for start in range(0, len(images), _CHUNK):
            rows = images[start : start + _CHUNK].flatten(1)
            torch.matmul(rows - mean.to(rows), rotation, out=points[start : start + _CHUNK])
        self.register_buffer("mean", mean.to(images))
        self.register_buffer("eigenvalues", eigenvalues.to(images))
        self.register_buffer("eigenvectors", rotation)
        self.register_buffer("points", points)
        register_levels(self, schedule, images)
        self._known_squares: dict[int, Tensor] = {}

    def with_bandwidth(self, bandwidth: float) -> SmoothedEmpiricalDenoiser:
        """Another member of the family; it shares the images and the eigenbasis, and so moves with this one."""
        other = copy.copy(self)
        other.bandwidth = _check_bandwidth(bandwidth)
        other._known_squares = {}
        return other

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the expected noise in `x`.

        Args:
            x: (B, C, H, W) with C * H * W = D, or (B, D).
            timestep: (B,) int64 in 0..T-1.

        Returns:
            eps in the shape and dtype of `x`.

        Raises:
            TypeError: When the module was moved to fewer digits than float32.
            ValueError: On other shapes.
        """
        return self.predict(x, timestep)[1]

    @in_full_precision
    def predict(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected image and the expected noise; arguments and errors as of `forward`."""
        check_query(x, timestep, len(self.mean))
        signal, noise = self.signal_variance[timestep][:, None], self.noise_variance[timestep][:, None]
        pixels = x.reshape(len(x), len(self.mean)).to(self.mean.dtype)
        rows = (pixels - signal.sqrt() * self.mean) @ self.eigenvectors
        smoothed = self.bandwidth**2 * self.eigenvalues
        shrinkage = 1 / (signal * smoothed + noise)
        point, scale = torch.zeros_like(rows), signal.sqrt() * self._contraction
        if self.bandwidth < 1 and len(x):
            query = scale * rows * shrinkage
            parts = zip(query.split(self._num_rows), timestep.split(self._num_rows), strict=True)
            point = torch.cat([self._expected_point(*part) for part in parts])
        rest = shrinkage * (rows - scale * point)
        image, eps = self._contraction * point + signal.sqrt() * smoothed * rest, noise.sqrt() * rest
        # One of them leaves the eigenbasis, and the other follows from it without loss of digits.
        is_noisy = noise > signal
        exact = torch.where(is_noisy, image, eps) @ self.eigenvectors.T
        image = torch.where(is_noisy, exact + self.mean, (pixels - noise.sqrt() * exact) / signal.sqrt())
        eps = torch.where(is_noisy, (pixels - signal.sqrt() * image) / noise.sqrt(), exact)
        return image.reshape(x.shape).to(x.dtype), eps.reshape(x.shape).to(x.dtype)

    @property
    def _num_rows(self) -> int:
        """So many rows at once that their weights take no more memory than the images, or than is little anyway."""
        num_weights = (1 + self.mirrored) * len(self.points)
        return max(1, max(self.points.numel(), _FEW_WEIGHTS) // num_weights)

    @property
    def _contraction(self) -> float:
        """The factor c = sqrt(1 - h^2)."""
        return math.sqrt(1 - self.bandwidth**2)

    def _expected_point(self, query: Tensor, timestep: Tensor) -> Tensor:
        """sum_i p_i y_i (B, D), where the exponent of p_i is query . y_i minus half of `_squares`."""
        levels, level_of_row = timestep.unique(return_inverse=True)
        squares = torch.stack([self._squares(level) for level in levels.tolist()])
        # Of a mirror image the antisymmetric part has the other sign.
        signs = (1, -1) if self.mirrored else (1,)
        blocks = [slice(0, self._num_symmetric), slice(self._num_symmetric, None)]
        weights = query.new_empty(len(signs), len(query), len(self.points))
        for start in range(0, len(self.points), _CHUNK):
            some = slice(start, start + _CHUNK)
            even, odd = (query[:, block] @ self.points[some, block].T for block in blocks)
            even -= squares[level_of_row, some] / 2
            for turn, sign in enumerate(signs):
                weights[turn, :, some] = torch.add(even, odd, alpha=sign)
        weights = weights.sub_(weights.detach().amax((0, 2))[:, None]).exp_()
        points = self.points
        # Far from the noisiest levels most weights are so small that float numbers have none but 0 for them.
        matters = (weights > self.dropped_weight / (len(signs) * len(points))).flatten(0, 1).any(0)
        kept = matters.nonzero()[:, 0]
        if 2 * len(kept) < len(points):
            points, weights = points[kept], weights[:, :, kept]
        total = query.new_zeros(query.shape)
        for start in range(0, len(points), _CHUNK):
            some = slice(start, start + _CHUNK)
            for turn, block in enumerate(blocks):
                signed = sum(sign**turn * part[:, some] for sign, part in zip(signs, weights, strict=True))
                total[:, block] += signed @ points[some, block]
        return total / weights.sum((0, 2))[:, None]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._known_squares.clear()

    def _squares(self, level: int) -> Tensor:
        """The M numbers a c^2 y_i . (w y_i) of a timestep, which a batch and all batches of a sampler share."""
        known = self._known_squares.get(level)
        if known is None or known.device != self.points.device or known.dtype != self.points.dtype:
            signal, noise = self.signal_variance[level], self.noise_variance[level]
            weights = signal * self._contraction**2 / (signal * self.bandwidth**2 * self.eigenvalues + noise)
            known = torch.cat([chunk.square() @ weights for chunk in self.points.split(_CHUNK)])
            if len(self._known_squares) >= len(self.eigenvalues):
                # No more of them than directions: they never take more memory than the images.
                self._known_squares.clear()
            self._known_squares[level] = known
        return known


def basis_bytes(dimensions: int, mirrored: bool) -> int:
    """Memory that covariance and eigenbasis of images of so many values need at least, while they are made."""
    # Matrices of float64, as measured: the covariance, its eigenvectors, what eigh works in; and the mirrored ones.
    return (6 if mirrored else 4) * 8 * dimensions**2


def _check_bandwidth(bandwidth: float) -> float:
    if not (isinstance(bandwidth, Real) and 0 <= bandwidth <= 1):
        raise ValueError(
            f"bandwidth must be a number in [0, 1], got {bandwidth!r}: 0 is the training set, 1 its Gaussian"
        )
    return float(bandwidth)


def _eigenbasis(estimate: Moments, shape: torch.Size, mirrored: bool) -> tuple[Tensor, Tensor, Tensor, int]:
    """Mean (D,), eigenvalues (D,) and eigenvectors (D, D) of a covariance, in float64, strongest first.

    With mirror images the directions that mirroring leaves as they are come first, then those whose sign it turns; the
    last number says how many are of the first kind.
    """
    mean, covariance, count = estimate.mean, estimate.covariance, estimate.num_samples
    if not mirrored:
        return mean, *_decompose(covariance), len(mean)
    mirror = torch.arange(len(mean), device=mean.device).reshape(shape).flip(-1).flatten()
    half_difference = (mean - mean[mirror]) / 2
    covariance = (covariance + covariance[mirror][:, mirror]) / 2
    covariance.addr_(half_difference, half_difference, alpha=count / (count - 1))
    index = torch.arange(len(mirror), device=mirror.device)
    left, right, middle = index[index < mirror], mirror[index < mirror], index[index == mirror]
    # Columns of two orthonormal bases: (left + right) / sqrt(2) and the middle, (left - right) / sqrt(2).
    identity = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    symmetric = torch.cat([(identity[:, left] + identity[:, right]) / math.sqrt(2), identity[:, middle]], 1)
    antisymmetric = (identity[:, left] - identity[:, right]) / math.sqrt(2)
    pairs = [(basis, *_decompose(basis.T @ covariance @ basis)) for basis in (symmetric, antisymmetric)]
    eigenvalues = torch.cat([values for _, values, _ in pairs])
    eigenvectors = torch.cat([basis @ vectors for basis, _, vectors in pairs], 1)
    return (mean + mean[mirror]) / 2, eigenvalues, eigenvectors, symmetric.shape[1]


def _decompose(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, not negative, and eigenvectors in columns, strongest first."""
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    return eigenvalues.flip(0).clamp(min=0), eigenvectors.flip(1)
