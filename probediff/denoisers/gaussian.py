"""The exact denoiser of Gaussian data: the second-order baseline beside every network."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from probediff.measures.covariance import check_covariance, moments
from probediff.schedule import NoiseSchedule

T = TypeVar("T")
_RELATIVE_TOLERANCE = 1e-5


def in_full_precision(evaluate: Callable[..., T]) -> Callable[..., T]:
    """A method of an exact denoiser that is not autocast and refuses fewer digits: they would be lost in silence."""

    @functools.wraps(evaluate)
    def evaluate_in_full(self: nn.Module, x: Tensor, timestep: Tensor) -> T:
        dtype = next(self.buffers()).dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"exact denoisers must be float32 or float64, got {dtype}: leave out .half() or .bfloat16(), of which "
                ".float() gets no digits back; x may have any dtype"
            )
        with torch.autocast(x.device.type, enabled=False):
            return evaluate(self, x, timestep)

    return evaluate_in_full


class GaussianDenoiser(nn.Module):
    """`eps_model` that is optimal for data from N(mean, covariance).

    eps(x, t) = sqrt(1 - a) (a S + (1 - a) I)^-1 (x - sqrt(a) mu) with a = alpha_bar(t): the posterior mean of eps
    given x_t = sqrt(a) x_0 + sqrt(1 - a) eps. It is evaluated in the eigenbasis of S in float64 (move the module to
    float32 for speed).

    Args:
        mean: (D,) mean of the flattened images.
        covariance: (D, D) symmetric and positive semi-definite, up to 1e-5 of its largest entry and eigenvalue.
        schedule: Noise schedule whose alpha_bar the timesteps index.

    Raises:
        ValueError: On shapes that do not match, non-finite entries, an asymmetric or an indefinite covariance.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    signal_variance: Tensor
    noise_variance: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__()
        eigenvalues, eigenvectors = _eigendecomposition(mean, covariance)
        self._register(mean.detach().double().clone(), eigenvalues, eigenvectors, schedule)

    def _register(self, mean: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, schedule: NoiseSchedule) -> None:
        self.register_buffer("mean", mean)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("eigenvectors", eigenvectors)
        register_levels(self, schedule, mean)

    @classmethod
    def fit(cls, images: Tensor, schedule: NoiseSchedule) -> GaussianDenoiser:
        """Estimate mean and unbiased covariance from images and return their denoiser.

        Args:
            images: (N, C, H, W) floating point, in the range the denoiser will see, [-1, 1]; N at least 2.
            schedule: Noise schedule.

        Raises:
            TypeError: When the images are not floating point.
            ValueError: When there are fewer than two images or they are not (N, C, H, W).
        """
        check_images(images)
        estimate = moments([images])
        return cls(estimate.mean, estimate.covariance, schedule)

    @classmethod
    def from_eigenbasis(
        cls, mean: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, schedule: NoiseSchedule
    ) -> GaussianDenoiser:
        """The denoiser of a covariance that is decomposed already, which at D = 12,288 takes a quarter of an hour.

        Args:
            mean: (D,).
            eigenvalues: (D,), not negative, in any order.
            eigenvectors: (D, D), in columns.
            schedule: Noise schedule.

        Raises:
            ValueError: Shapes that do not match, or a negative eigenvalue.
        """
        if not mean.shape == eigenvalues.shape == eigenvectors.shape[:1] == eigenvectors.shape[1:]:
            shapes = ", ".join(str(tuple(part.shape)) for part in (mean, eigenvalues, eigenvectors))
            raise ValueError(f"mean, eigenvalues and eigenvectors must be (D,), (D,) and (D, D), got {shapes}")
        if bool((eigenvalues < 0).any()):
            raise ValueError(f"eigenvalues must be 0 or more, got {float(eigenvalues.min()):.3g}")
        denoiser = cls.__new__(cls)
        nn.Module.__init__(denoiser)
        denoiser._register(mean, eigenvalues, eigenvectors, schedule)
        return denoiser

    @in_full_precision
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the expected noise in `x`, also within autocast.

        Args:
            x: (B, C, H, W) with C * H * W = D, or (B, D).
            timestep: (B,) int64 in 0..T-1 (not checked, as this would wait for the device).

        Returns:
            eps in the shape and dtype of `x`.

        Raises:
            TypeError: When the module was moved to fewer digits than float32.
            ValueError: On other shapes.
        """
        dimensions = len(self.mean)
        check_query(x, timestep, dimensions)
        signal = self.signal_variance[timestep][:, None]
        noise = self.noise_variance[timestep][:, None]
        centred = x.reshape(x.shape[0], dimensions).to(self.mean.dtype) - signal.sqrt() * self.mean
        gain = noise.sqrt() / (signal * self.eigenvalues + noise)
        eps = ((centred @ self.eigenvectors) * gain) @ self.eigenvectors.T
        return eps.reshape(x.shape).to(x.dtype)


def register_levels(module: nn.Module, schedule: NoiseSchedule, like: Tensor) -> None:
    """Give a module the buffers ``signal_variance``, alpha_bar, and ``noise_variance``, (T,) each, like a tensor."""
    alpha_bar = schedule.alpha_bar.to(like.device)
    module.register_buffer("signal_variance", alpha_bar.to(like.dtype, copy=True))
    # 1 - alpha_bar has a buffer of its own because it would lose its digits near t = 0 in float32.
    module.register_buffer("noise_variance", (1 - alpha_bar).to(like.dtype))


def check_images(images: Tensor) -> None:
    """Raise TypeError unless images are floating point, ValueError unless they are (N, C, H, W) with N of 2 or more."""
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1], got {images.dtype}: scale uint8 by x / 127.5 - 1")
    if images.dim() != 4 or images.shape[0] < 2:
        raise ValueError(f"images must be (N, C, H, W) with N >= 2, got {tuple(images.shape)}: pass more images")


def check_query(x: Tensor, timestep: Tensor, dimensions: int) -> None:
    """Raise ValueError unless x is (B, D) or (B, C, H, W) of D = ``dimensions`` values, and the timestep (B,)."""
    if x.dim() not in (2, 4) or math.prod(x.shape[1:]) != dimensions:
        raise ValueError(
            f"x must be (B, {dimensions}) or (B, C, H, W) with C * H * W = {dimensions}, got {tuple(x.shape)}: "
            "use the image size the denoiser was made for"
        )
    if timestep.shape != x.shape[:1]:
        raise ValueError(f"timestep must be ({x.shape[0]},), got {tuple(timestep.shape)}: pass one a sample")


def _eigendecomposition(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Check mean and covariance; return eigenvalues (D,), not negative, and eigenvectors (D, D) in float64."""
    matrix = check_covariance(mean, covariance)
    eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if smallest < -_RELATIVE_TOLERANCE * max(largest, 0.0):
        raise ValueError(
            f"covariance must be positive semi-definite, got the eigenvalue {smallest:.3g} "
            f"(largest {largest:.3g}): estimate it from data, or add a multiple of the identity"
        )
    return eigenvalues.clamp(min=0.0), eigenvectors
