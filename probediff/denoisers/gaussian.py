"""The exact denoiser of Gaussian data: the second-order baseline beside every network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from probediff.schedule import NoiseSchedule

_RELATIVE_TOLERANCE = 1e-5
_CHUNK_SIZE = 1024


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
        alpha_bar = schedule.alpha_bar.to(mean.device, torch.float64)
        self.register_buffer("mean", mean.detach().double().clone())
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("eigenvectors", eigenvectors)
        # 1 - alpha_bar has a buffer of its own because it would lose its digits near t = 0 in float32.
        self.register_buffer("signal_variance", alpha_bar.clone())
        self.register_buffer("noise_variance", 1 - alpha_bar)

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
        if not images.is_floating_point():
            raise TypeError(
                f"images must be floating point in [-1, 1], got {images.dtype}: scale uint8 by x / 127.5 - 1"
            )
        if images.dim() != 4 or images.shape[0] < 2:
            raise ValueError(f"images must be (N, C, H, W) with N >= 2, got {tuple(images.shape)}: pass more images")
        mean, covariance = _moments(images)
        return cls(mean, covariance, schedule)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the expected noise in `x`.

        Args:
            x: (B, C, H, W) with C * H * W = D, or (B, D).
            timestep: (B,) int64 in 0..T-1 (not checked, as this would wait for the device).

        Returns:
            eps in the shape and dtype of `x`.

        Raises:
            ValueError: On other shapes.
        """
        dimensions = self.mean.shape[0]
        if x.dim() not in (2, 4) or math.prod(x.shape[1:]) != dimensions:
            raise ValueError(
                f"x must be (B, {dimensions}) or (B, C, H, W) with C * H * W = {dimensions}, got {tuple(x.shape)}: "
                "use the image size the denoiser was made for"
            )
        if timestep.shape != x.shape[:1]:
            raise ValueError(f"timestep must be ({x.shape[0]},), got {tuple(timestep.shape)}: pass one a sample")
        signal = self.signal_variance[timestep][:, None]
        noise = self.noise_variance[timestep][:, None]
        centred = x.reshape(x.shape[0], dimensions).to(self.mean.dtype) - signal.sqrt() * self.mean
        gain = noise.sqrt() / (signal * self.eigenvalues + noise)
        eps = ((centred @ self.eigenvectors) * gain) @ self.eigenvectors.T
        return eps.reshape(x.shape).to(x.dtype)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and unbiased covariance (D, D) in float64, holding one chunk in float64 at a time."""
    flat = images.detach().flatten(1)
    num_images, dimensions = flat.shape
    total = torch.zeros(dimensions, dtype=torch.float64, device=flat.device)
    for chunk in flat.split(_CHUNK_SIZE):
        total += chunk.double().sum(0)
    mean = total / num_images
    scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=flat.device)
    for chunk in flat.split(_CHUNK_SIZE):
        centred = chunk.double() - mean
        scatter.addmm_(centred.T, centred)
    return mean, scatter / (num_images - 1)


def _eigendecomposition(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Check mean and covariance; return eigenvalues (D,), not negative, and eigenvectors (D, D) in float64."""
    if mean.dim() != 1 or covariance.shape != (mean.shape[0], mean.shape[0]) or mean.shape[0] == 0:
        raise ValueError(
            "mean must be (D,) and covariance (D, D) with the same D >= 1, "
            f"got {tuple(mean.shape)} and {tuple(covariance.shape)}: flatten the images first"
        )
    matrix = covariance.detach().double()
    if not (torch.isfinite(matrix).all() and torch.isfinite(mean).all()):
        raise ValueError("mean and covariance must be finite, got NaN or infinite entries: check the data for them")
    asymmetry = float((matrix - matrix.T).abs().max())
    if asymmetry > _RELATIVE_TOLERANCE * float(matrix.abs().max()):
        raise ValueError(
            f"covariance must be symmetric, got entries that differ from the transpose by up to {asymmetry:.3g}: "
            "pass (S + S.T) / 2 if that is rounding"
        )
    eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if smallest < -_RELATIVE_TOLERANCE * max(largest, 0.0):
        raise ValueError(
            f"covariance must be positive semi-definite, got the eigenvalue {smallest:.3g} "
            f"(largest {largest:.3g}): estimate it from data, or add a multiple of the identity"
        )
    return eigenvalues.clamp(min=0.0), eigenvectors
