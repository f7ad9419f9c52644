"""One family of exact denoisers, from the Gaussian of the training images to the training images themselves."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from probediff.denoisers.gaussian import check_asked
from probediff.measures.covariance import moments
from probediff.schedule import NoiseSchedule

_CHUNK = 4096
#: Of the directions of an image, so many of the strongest bound the weights before they are computed.
_HEAD_SHARE = 6


class SmoothedEmpiricalDenoiser(nn.Module):
    """`eps_model` that is optimal for the training images, smoothed by a Gaussian of their own covariance.

    The law, with m and S the mean and the covariance of the training images and h the bandwidth:

        x_0 = m + sqrt(1 - h^2) (x_i - m) + h z,   i uniform over the training images,   z from N(0, S).

    For every h it has mean m and covariance S. h = 1 is the Gaussian of `GaussianDenoiser`; h = 0 is the training set,
    whose denoiser knows nothing but these images. With a = alpha_bar, c = sqrt(1 - h^2), the eigenvalues s of S, and
    images y_i and r = x_t - sqrt(a) m in the eigenbasis of S, the posterior is a mixture of one Gaussian an image:

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
        dropped_weight: Images may be passed over in an evaluation as long as their weights p_i add up to less than
            this, which moves the denoised image by less than sqrt(1 - h^2) times this times the largest distance
            between two training images. 0 passes over none.

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
    ) -> None:
        super().__init__()
        if not images.is_floating_point():
            raise TypeError(
                f"images must be floating point in [-1, 1], got {images.dtype}: scale uint8 by x / 127.5 - 1"
            )
        if images.dim() != 4 or images.shape[0] < 2:
            raise ValueError(f"images must be (M, C, H, W) with M >= 2, got {tuple(images.shape)}: pass more images")
        if not 0 <= dropped_weight < 1:
            raise ValueError(f"dropped_weight must lie in [0, 1), got {dropped_weight}: 1e-6 changes nothing visible")
        self.bandwidth = _check_bandwidth(bandwidth)
        self.mirrored = mirrored
        self.dropped_weight = dropped_weight
        mean, eigenvalues, eigenvectors, self._num_symmetric = _eigenbasis(images, mirrored)
        rotation = eigenvectors.to(images)
        points = torch.empty(len(images), len(mean), dtype=images.dtype, device=images.device)
        for start in range(0, len(images), _CHUNK):
            rows = images[start : start + _CHUNK].flatten(1)
            torch.matmul(rows - mean.to(rows), rotation, out=points[start : start + _CHUNK])
        alpha_bar = schedule.alpha_bar.to(images.device)
        self.register_buffer("mean", mean.to(images))
        self.register_buffer("eigenvalues", eigenvalues.to(images))
        self.register_buffer("eigenvectors", rotation)
        self.register_buffer("points", points)
        self.register_buffer("signal_variance", alpha_bar.to(images.dtype))
        # 1 - alpha_bar has a buffer of its own because it would lose its digits near t = 0 in float32.
        self.register_buffer("noise_variance", (1 - alpha_bar).to(images.dtype))
        self._kept_squares: dict[tuple[int, bool], Tensor] = {}

    def with_bandwidth(self, bandwidth: float) -> SmoothedEmpiricalDenoiser:
        """Another member of the family; it shares the images and the eigenbasis, and so moves with this one."""
        other = copy.copy(self)
        other.bandwidth = _check_bandwidth(bandwidth)
        other._kept_squares = {}
        return other

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the expected noise in `x`.

        Args:
            x: (B, C, H, W) with C * H * W = D, or (B, D).
            timestep: (B,) int64 in 0..T-1.

        Returns:
            eps in the shape and dtype of `x`.

        Raises:
            ValueError: On other shapes.
        """
        noise, shrinkage, rest, _ = self._posterior(x, timestep)
        return self._to_pixels(noise.sqrt() * shrinkage * rest, x)

    def predict(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected image and the expected noise; arguments and errors as of `forward`."""
        noise, shrinkage, rest, point = self._posterior(x, timestep)
        smoothed = self.bandwidth**2 * self.signal_variance[timestep][:, None].sqrt() * self.eigenvalues
        image = self._contraction * point + smoothed * shrinkage * rest
        return self._to_pixels(image, x, self.mean), self._to_pixels(noise.sqrt() * shrinkage * rest, x)

    @property
    def _contraction(self) -> float:
        """The factor c = sqrt(1 - h^2)."""
        return math.sqrt(1 - self.bandwidth**2)

    def _to_pixels(self, rows: Tensor, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Rows (B, D) of the eigenbasis in the shape and dtype of `x`."""
        pixels = rows @ self.eigenvectors.T
        return (pixels if mean is None else pixels + mean).reshape(x.shape).to(x.dtype)

    def _posterior(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """1 - a (B, 1), w (B, D), r - sqrt(a) c y (B, D) and y = sum p_i y_i (B, D)."""
        check_asked(x, timestep, len(self.mean))
        signal, noise = self.signal_variance[timestep][:, None], self.noise_variance[timestep][:, None]
        pixels = x.reshape(len(x), -1).to(self.mean.dtype)
        rows = (pixels - signal.sqrt() * self.mean) @ self.eigenvectors
        shrinkage = 1 / (signal * self.bandwidth**2 * self.eigenvalues + noise)
        if self.bandwidth == 1:
            return noise, shrinkage, rows, torch.zeros_like(rows)
        scale = signal.sqrt() * self._contraction
        length = self._tail(shrinkage * rows.square()).sum(1, keepdim=True).sqrt() if self.dropped_weight else None
        point = self._expected_point(scale * rows * shrinkage, length, timestep)
        return noise, shrinkage, rows - scale * point, point

    def _expected_point(self, query: Tensor, length: Tensor | None, timestep: Tensor) -> Tensor:
        """sum_i p_i y_i (B, D), where the exponent of p_i is query . y_i minus half of `_squares`."""
        levels, level_of_row = timestep.unique(return_inverse=True)
        known = levels.tolist()
        squares = torch.stack([self._squares(level) for level in known])
        points = self.points
        if length is not None:
            tails = torch.stack([self._squares(level, is_tail=True) for level in known])
            kept = self._images_that_matter(query, length, squares[level_of_row], tails[level_of_row])
            points, squares = (points, squares) if kept is None else (points[kept], squares[:, kept])
        total: Tensor = query.new_zeros(query.shape)
        weight = query.new_zeros(len(query), 1)
        largest = query.new_full((len(query), 1), -math.inf)
        # Chunk by chunk with the largest exponent so far taken out, so that M weights a row are never held at once.
        for start in range(0, len(points), _CHUNK):
            chunk, halves = points[start : start + _CHUNK], squares[:, start : start + _CHUNK] / 2
            exponents = self._exponents(query, chunk) - halves[level_of_row][:, None]
            new_largest = torch.maximum(largest, exponents.amax((1, 2))[:, None])
            decay = (largest - new_largest).exp()
            weights = (exponents - new_largest[:, None]).exp_()
            weight = weight * decay + weights.sum((1, 2))[:, None]
            total = total * decay
            # Of a mirror image the antisymmetric part has the other sign.
            for block, sign in zip(self._blocks(), (1, -1), strict=False):
                signed = weights[:, 0] + sign * weights[:, 1] if self.mirrored else weights[:, 0]
                total[:, block] += signed @ chunk[:, block]
            largest = new_largest
        return total / weight

    def _blocks(self, share: int = 1) -> list[slice]:
        """The directions that mirroring leaves as they are, and those whose sign it turns; the strongest of each."""
        count = len(self.eigenvalues)
        blocks = [slice(0, self._num_symmetric), slice(self._num_symmetric, count)]
        return [slice(b.start, b.start + -(-(b.stop - b.start) // share)) for b in blocks if b.stop > b.start]

    def _exponents(self, query: Tensor, points: Tensor, share: int = 1) -> Tensor:
        """Products of the query with (m, D) points and, after them, their mirror images: (B, 1 or 2, m)."""
        products = [query[:, block] @ points[:, block].T for block in self._blocks(share)]
        if not self.mirrored:
            return products[0][:, None]
        symmetric, antisymmetric = products[0], sum(products[1:], torch.zeros(()).to(query))
        return torch.stack([symmetric + antisymmetric, symmetric - antisymmetric], 1)

    def _squares(self, level: int, is_tail: bool = False) -> Tensor:
        """The M numbers a c^2 y_i . (w y_i) of a timestep, or the part of it that the weaker directions give.

        They are kept, for all images of a batch and all batches of a sampler are at the same timesteps.
        """
        known = self._kept_squares.get((level, is_tail))
        if known is None or known.device != self.points.device or known.dtype != self.points.dtype:
            signal, noise = self.signal_variance[level], self.noise_variance[level]
            weights = signal * self._contraction**2 / (signal * self.bandwidth**2 * self.eigenvalues + noise)
            if is_tail:
                weights = self._tail(weights)
            known = torch.cat([chunk.square() @ weights for chunk in self.points.split(_CHUNK)])
            if len(self._kept_squares) >= len(self.eigenvalues):
                # No more of them than directions: they never take more memory than the images.
                self._kept_squares.clear()
            self._kept_squares[level, is_tail] = known
        return known

    def _tail(self, values: Tensor) -> Tensor:
        """(..., D) values with zeros in the strongest directions."""
        values = values.clone()
        for block in self._blocks(_HEAD_SHARE):
            values[..., block] = 0
        return values

    def _images_that_matter(self, query: Tensor, length: Tensor, squares: Tensor, tails: Tensor) -> Tensor | None:
        """Indices of images outside of which the weights of any row add up to less than `dropped_weight`.

        The strongest directions and the squares are computed; what the other directions add to an exponent is, by the
        inequality of Cauchy and Schwarz, at most the product of two lengths. Against this bound stands the exponent of
        the image that seems nearest.

        Args:
            query: (B, D).
            length: (B, 1) of r in the other directions, weighed by w.
            squares: (B, M) of `_squares`.
            tails: (B, M), likewise.

        Returns:
            (K,), or None where these are more than half of the images: then all of them cost less.
        """
        exponents = self._exponents(query, self.points, _HEAD_SHARE) - squares[:, None] / 2
        best = exponents.flatten(1).argmax(1)
        image, is_mirror = best % len(self.points), best >= len(self.points)
        nearest = self.points[image]
        nearest[is_mirror, self._num_symmetric :] *= -1
        exponent = (query * nearest).sum(1) - squares.gather(1, image[:, None])[:, 0] / 2
        least = exponent + math.log(self.dropped_weight / exponents[0].numel())
        bound = exponents + (length * tails.sqrt())[:, None]
        kept = (bound >= least[:, None, None]).flatten(0, 1).any(0).nonzero()[:, 0]
        return kept if 2 * len(kept) < len(self.points) else None


def _check_bandwidth(bandwidth: float) -> float:
    if not 0 <= bandwidth <= 1:
        raise ValueError(f"bandwidth must lie in [0, 1], got {bandwidth}: 0 is the training set, 1 its Gaussian")
    return float(bandwidth)


def _eigenbasis(images: Tensor, mirrored: bool) -> tuple[Tensor, Tensor, Tensor, int]:
    """Mean (D,), eigenvalues (D,) and eigenvectors (D, D) of the images' covariance, in float64, strongest first.

    With mirror images the directions that mirroring leaves as they are come first, then those whose sign it turns; the
    last number says how many are of the first kind.
    """
    estimate = moments(images.split(_CHUNK))
    mean, covariance, count = estimate.mean, estimate.covariance, estimate.num_samples
    if not mirrored:
        return mean, *_decompose(covariance), len(mean)
    mirror = torch.arange(len(mean), device=mean.device).reshape(images.shape[1:]).flip(-1).flatten()
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
