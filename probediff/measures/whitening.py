"""The five whitening transforms of Kessy, Lewin & Strimmer (2018), and how far a linear map is from them (P2).

A whitening matrix W fulfils W S W^T = I for the covariance S = U L U^T = V^(1/2) P V^(1/2), with the variances V and
the correlations P = G T G^T:

    zca       U L^(-1/2) U^T            of all whitenings the largest average covariance with the data
    zca_cor   G T^(-1/2) G^T V^(-1/2)   of all whitenings the largest average correlation with the data
    pca       L^(-1/2) U^T              largest eigenvalue first
    pca_cor   T^(-1/2) G^T V^(-1/2)
    cholesky  upper triangular, with a positive diagonal

Eigenvectors have a positive diagonal, U_ii >= 0 (as Kessy et al. choose), because PCA whitening fixes no signs.
P2 prints the factor of S for Cholesky; only the factor of S^-1 whitens.

P2 is *First-step inference in diffusion models learns image de-whitening*.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from probediff.measures._rows import as_rows
from probediff.measures.covariance import PairedMoments, check_covariance

WhiteningMethod = Literal["zca", "zca_cor", "pca", "pca_cor", "cholesky"]
WHITENING_METHODS: tuple[WhiteningMethod, ...] = get_args(WhiteningMethod)

_KRYLOV_STEPS = 300
_KRYLOV_TOLERANCE = 1e-12


class MatrixDistance(NamedTuple):
    """Spectral norm (the largest singular value) and Frobenius norm of a difference (P2, inset table)."""

    spectral: float
    frobenius: float


class DeviationFromIdentity(NamedTuple):
    """How white W leaves data; N images of pure white noise give 1, sqrt(2 / N) and 1 / sqrt(N)."""

    mean_variance: float
    rms_diagonal: float
    rms_off_diagonal: float


@dataclass(frozen=True, eq=False)
class WhiteningTransform:
    """The statistics that whiten a set of images; make it with `from_covariance`.

    Attributes:
        mean: (D,) float64.
        eigenvalues: (D,) float64, of the covariance and the ridge, all positive, largest first.
        eigenvectors: (D, D) float64, in columns, with a diagonal that is not negative.
        ridge: What was added to the variance of every pixel, relative to their mean.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    ridge: float = 0.0

    @classmethod
    def from_covariance(cls, mean: Tensor, covariance: Tensor, ridge: float = 0.0) -> WhiteningTransform:
        """Decompose a covariance: 16 s at D = 3072 (one core); 16 minutes, 5.2 GiB in all at 12,288 (two busy cores).

        Args:
            mean: (D,).
            covariance: (D, D), symmetric up to 1e-5 of its largest entry.
            ridge: S + ridge * trace(S) / D * I is whitened instead of S, 0 or more. A covariance without full rank,
                as that of D or fewer images or of a constant pixel, needs it: 1e-4 is little beside natural images.

        Raises:
            ValueError: Shapes that do not match, values not finite, a covariance that is not symmetric, a negative
                ridge, or a covariance that without a (larger) ridge has no inverse in float64.
        """
        matrix = check_covariance(mean, covariance)
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge must be 0 or more and finite, got {ridge}; 1e-4 is small beside natural images")
        eigenvalues, eigenvectors = _descending_eigh(matrix)
        eigenvalues = eigenvalues + ridge * float(matrix.diagonal().mean())
        _check_full_rank(eigenvalues)
        return cls(mean.detach().double().clone(), eigenvalues, eigenvectors, float(ridge))

    def to(self, device: torch.device) -> WhiteningTransform:
        """The same statistics on a device."""
        mean, eigenvalues, eigenvectors = (x.to(device) for x in (self.mean, self.eigenvalues, self.eigenvectors))
        return WhiteningTransform(mean, eigenvalues, eigenvectors, self.ridge)

    def covariance(self) -> Tensor:
        """(D, D) float64, with the ridge."""
        return (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T

    def matrix(self, method: WhiteningMethod = "zca") -> Tensor:
        """W (D, D) float64, so that W (x - mean) is white."""
        return self._whiten_rows(torch.eye(len(self.mean)).to(self.mean), method).T

    def inverse_matrix(self, method: WhiteningMethod = "zca") -> Tensor:
        """W^-1 (D, D) float64, what P2 says the first step of a diffusion model does to noise."""
        return self._dewhiten_rows(torch.eye(len(self.mean)).to(self.mean), method).T

    def whiten(self, images: Tensor, method: WhiteningMethod = "zca") -> Tensor:
        """W (x - mean) for (N, C, H, W) or (N, D) images, in their shape and dtype.

        Raises:
            TypeError: Not floating point.
            ValueError: Another size, values not finite, or an unknown method.
        """
        rows = self._whiten_rows(self.checked_rows("images", images) - self.mean, method)
        return rows.reshape(images.shape).to(images)

    def dewhiten(self, noise: Tensor, method: WhiteningMethod = "zca") -> Tensor:
        """W^-1 z + mean, the inverse of `whiten`; raises as that."""
        rows = self._dewhiten_rows(self.checked_rows("noise", noise), method) + self.mean
        return rows.reshape(noise.shape).to(noise)

    @cached_property
    def _correlation(self) -> tuple[Tensor, Tensor, Tensor]:
        """Standard deviations (D,), eigenvalues (D,) and eigenvectors (D, D) of the correlations."""
        covariance = self.covariance()
        std = covariance.diagonal().sqrt()
        covariance /= std[:, None] * std
        return std, *_descending_eigh(covariance)

    def _spectrum(self, method: WhiteningMethod) -> tuple[Tensor | float, Tensor, Tensor]:
        """What values are divided by before eigenvalues (D,) and eigenvectors (D, D) apply."""
        if method.endswith("_cor"):
            return self._correlation
        return 1.0, self.eigenvalues, self.eigenvectors

    @cached_property
    def _upper_factor(self) -> Tensor:
        """Upper triangular M with S = M M^T, so that W = M^-1 is upper triangular and W^T W = S^-1."""
        return torch.linalg.cholesky(self.covariance().flip(0, 1)).flip(0, 1)

    def _whiten_rows(self, rows: Tensor, method: WhiteningMethod) -> Tensor:
        _check_method(method)
        if method == "cholesky":
            return torch.linalg.solve_triangular(self._upper_factor, rows.T, upper=True).T
        std, eigenvalues, eigenvectors = self._spectrum(method)
        rotated = ((rows / std) @ eigenvectors) / eigenvalues.sqrt()
        return rotated @ eigenvectors.T if method.startswith("zca") else rotated

    def _dewhiten_rows(self, rows: Tensor, method: WhiteningMethod) -> Tensor:
        _check_method(method)
        if method == "cholesky":
            return rows @ self._upper_factor.T
        std, eigenvalues, eigenvectors = self._spectrum(method)
        rotated = rows @ eigenvectors if method.startswith("zca") else rows
        return ((rotated * eigenvalues.sqrt()) @ eigenvectors.T) * std

    def checked_rows(self, name: str, images: Tensor) -> Tensor:
        """`images`, whom messages call `name`, as (N, D) float64 rows; raises as `whiten`."""
        rows = as_rows(name, images)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"{name} must have {len(self.mean)} values each, as the whitening statistics have, got "
                f"{rows.shape[1]}; use statistics of images of that size"
            )
        return rows.double()


#: The name of earlier versions.
Whitening = WhiteningTransform


def _check_method(method: str) -> None:
    if method not in WHITENING_METHODS:
        raise ValueError(f"method must be one of {', '.join(WHITENING_METHODS)}, got {method!r}")


def _descending_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), largest first, and eigenvectors (D, D) with a diagonal that is not negative."""
    eigenvalues, eigenvectors = torch.linalg.eigh(matrix)
    eigenvectors = eigenvectors.flip(1)
    eigenvectors *= torch.where(eigenvectors.diagonal() < 0, -1.0, 1.0).to(eigenvectors)
    return eigenvalues.flip(0), eigenvectors


def _check_full_rank(eigenvalues: Tensor) -> None:
    floor = len(eigenvalues) * torch.finfo(torch.float64).eps * float(eigenvalues[0])
    rank = int((eigenvalues > floor).sum())
    if rank < len(eigenvalues) or float(eigenvalues[0]) <= 0:
        raise ValueError(
            f"covariance must have full rank to be whitened, got rank {rank} of {len(eigenvalues)} (smallest "
            f"eigenvalue {float(eigenvalues[-1]):.3g}, largest {float(eigenvalues[0]):.3g}); pass more than "
            f"{len(eigenvalues)} images without constant pixels, or a ridge such as 1e-4"
        )


def least_squares_map(pairs: PairedMoments, whitening: WhiteningTransform) -> Tensor:
    """W_diff (E, D): the linear map of x that comes nearest to z, by the normal equations (P2, eq. 9).

    Args:
        pairs: Moments of the pairs.
        whitening: Statistics of the same x, made `from_covariance(pairs.x.mean, pairs.x.covariance)`; their ridge makes
            it a ridge regression.

    Raises:
        ValueError: Statistics of another size.
    """
    if pairs.cross_covariance.shape[0] != len(whitening.mean):
        raise ValueError(
            f"whitening must be that of the pairs' x with {pairs.cross_covariance.shape[0]} values, got "
            f"{len(whitening.mean)}; make it from pairs.x"
        )
    rotated = (whitening.eigenvectors.T @ pairs.cross_covariance) / whitening.eigenvalues[:, None]
    return (whitening.eigenvectors @ rotated).T


def deviation_from_identity(covariance: Tensor) -> DeviationFromIdentity:
    """Mean of the diagonal, and root mean squares of diagonal - 1 and of the rest of (D, D), D >= 2 (P2, figure 5c).

    Pass W S W^T, the covariance of what W made of data with covariance S.
    """
    size, diagonal = len(covariance), covariance.diagonal()
    outside = covariance.square().sum() - diagonal.square().sum()
    rms = (outside.clamp(min=0) / (size * (size - 1))).sqrt()
    return DeviationFromIdentity(float(diagonal.mean()), float((diagonal - 1).square().mean().sqrt()), float(rms))


def matrix_distance(a: Tensor, b: Tensor) -> MatrixDistance:
    """Spectral and Frobenius norm of a - b, (E, D) each, in O(E D) memory and time a Lanczos step.

    The spectral norm is the largest Ritz value of D^T D in a Krylov space that grows until it changes by under 1e-12.

    Raises:
        ValueError: Shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b must be matrices of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    difference = a.double() - b.double()
    return MatrixDistance(_spectral_norm(difference), float(torch.linalg.vector_norm(difference)))


def _spectral_norm(matrix: Tensor) -> float:
    start = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = (start / start.norm()).to(matrix)[None]
    images, largest = (matrix @ basis[0])[None], 0.0
    for _ in range(min(_KRYLOV_STEPS, matrix.shape[1])):
        previous, largest = largest, float(torch.linalg.svdvals(images)[0])
        step = matrix.T @ images[-1]
        for _ in range(2):  # once more, because a single pass leaves rounding that brings back found directions
            step = step - (basis @ step) @ basis
        length = float(step.norm())
        if abs(largest - previous) <= _KRYLOV_TOLERANCE * largest or length <= _KRYLOV_TOLERANCE * largest:
            break
        basis = torch.cat([basis, step[None] / length])
        images = torch.cat([images, (matrix @ basis[-1])[None]])
    return largest
