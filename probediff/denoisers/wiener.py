"""The Gaussian denoiser of images: the Wiener filter."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from probediff.denoisers.gaussian import GaussianDenoiser, check_images, check_query, in_full_precision
from probediff.measures.covariance import Moments, moments
from probediff.schedule import NoiseSchedule

_CHUNK = 4096


class WienerDenoiser(GaussianDenoiser):
    """`GaussianDenoiser` of images that gives the expected image too, also where alpha_bar is next to 0.

    Among the filtered posterior means it is the one whose source is the Gaussian of the training images, with their
    mean m and covariance S: x_hat_0 = m + sqrt(a) S (a S + (1 - a) I)^-1 (x_t - sqrt(a) m).
    """

    @classmethod
    def of_images(
        cls, images: Tensor, schedule: NoiseSchedule, mirrored: bool = False, statistics: Moments | None = None
    ) -> Self:
        """The denoiser of these images, in their dtype.

        Args:
            images: (M, C, H, W) floating point in [-1, 1], M at least 2.
            schedule: Noise schedule.
            mirrored: Whether each image counts with its mirror image; the divisor of S remains M - 1.
            statistics: m and S, where the images are only a part of a larger set; by default their own.

        Raises:
            TypeError: When the images are not floating point.
            ValueError: On fewer than two images, other shapes, or values not finite.
        """
        check_images(images)
        if statistics is not None:
            return cls(statistics.mean, statistics.covariance, schedule).to(images)
        chunks = images.detach().split(_CHUNK)
        mirrors = tuple(chunk.flip(-1) for chunk in chunks) if mirrored else ()
        estimate = moments((*chunks, *mirrors))
        count = estimate.num_samples
        divisor = count - 2 if mirrored else count - 1
        covariance = estimate.covariance * ((count - 1) / divisor)
        return cls(estimate.mean, covariance, schedule).to(images)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the expected noise in `x`; arguments and errors as of `GaussianDenoiser.forward`."""
        return self.predict(x, timestep)[1]

    @in_full_precision
    def predict(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected image and the expected noise; arguments and errors as of `forward`."""
        check_query(x, timestep, len(self.mean))
        signal, noise = self.signal_variance[timestep][:, None], self.noise_variance[timestep][:, None]
        rows = (x.reshape(len(x), len(self.mean)).to(self.mean.dtype) - signal.sqrt() * self.mean) @ self.eigenvectors
        shrunk = rows / (signal * self.eigenvalues + noise)
        image = (signal.sqrt() * self.eigenvalues * shrunk) @ self.eigenvectors.T + self.mean
        eps = (noise.sqrt() * shrunk) @ self.eigenvectors.T
        return image.reshape(x.shape).to(x.dtype), eps.reshape(x.shape).to(x.dtype)
