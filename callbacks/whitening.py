"""When does de-whitening emerge? P2's fixed point at every checkpoint, against ZCA whitening of real images."""

from __future__ import annotations

import math

from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.measures.covariance import moments
from probediff.measures.whitening import Whitening as Statistics
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.pairs import NetworkNoises
from probediff.whitening.spectral import along_eigenvectors, compared, spectral_fit

_CHUNK = 256


class Whitening(Probe):
    """R² of ZCA whitening and the slope of P2's first-step map, beside those of the Gaussian denoiser.

    Costs ``num_fixed_points * num_iterations`` network evaluations a checkpoint, so it is off unless asked for.

    Args:
        enabled: whether the probe runs.
        num_images: real images behind the covariance, more than the values of an image unless there is a ridge.
        num_fixed_points: real images whose noises are made.
        num_iterations: of P2's iteration, from zero; the slope depends on it.
        timestep_share: timestep of the iteration as a share of T (P2: 0.98).
        ridge: share of the mean variance that is added to the variance of every pixel.
    """

    def __init__(
        self,
        enabled: bool = False,
        num_images: int = 10_000,
        num_fixed_points: int = 256,
        num_iterations: int = 100,
        timestep_share: float = 0.98,
        ridge: float = 0.0,
    ) -> None:
        super().__init__(enabled)
        smallest = {"num_images": (num_images, 3), "num_fixed_points": (num_fixed_points, 3)}
        for name, (value, least) in (smallest | {"num_iterations": (num_iterations, 1)}).items():
            if value < least:
                raise ValueError(f"whitening.{name} must be at least {least}, got {value}")
        if not 0 < timestep_share <= 1:
            raise ValueError(f"whitening.timestep_share must be above 0 and at most 1, got {timestep_share}; P2: 0.98")
        if not 0 <= ridge < math.inf:
            raise ValueError(f"whitening.ridge must be 0 or more, got {ridge}; 1e-4 is little beside natural images")
        self.num_images = num_images
        self.num_fixed_points = num_fixed_points
        self.num_iterations = num_iterations
        self.timestep_share = timestep_share
        self.ridge = ridge
        self._statistics: tuple[Statistics, int] | None = None

    def check(self, context: ProbeContext) -> None:
        """Whiten the real images, so that what cannot be whitened is refused before training."""
        if context.real_images is None:
            raise ValueError("whitening needs real images, got a run without a data set; set its enabled to false")
        self._real_images = context.real_images
        images = self._real_images(self.num_images)
        size = images[0].numel()
        if self.ridge == 0 and len(images) <= size:
            raise ValueError(
                f"whitening.num_images must be more than the {size} values of an image, got {len(images)}; raise it, "
                f"or set whitening.ridge to 1e-4"
            )
        found = moments(images.split(_CHUNK))
        try:
            whitening = Statistics.from_covariance(found.mean, found.covariance, self.ridge)
        except ValueError as error:
            raise ValueError(f"whitening of the real images: {error}; set whitening.ridge") from error
        self._statistics = whitening, len(images)

    def measure(self, event: ProbePass) -> ProbeResult:
        """Slope and R² of the network's noises and of the Gaussian denoiser's, and the gain in every direction."""
        if event.model is None or self._statistics is None:
            raise ValueError("whitening needs a pass that can ask the network, got one that cannot")
        whitening, num_images = self._statistics
        images, count = self._real_images(self.num_fixed_points), self.num_iterations
        timestep = min(round(self.timestep_share * len(event.schedule)), len(event.schedule) - 1)
        maker = NetworkNoises(event.eps, event.schedule, batch_size=event.settings.batch_size)
        made = maker.iterates(images, timestep, [count])
        along_x = along_eigenvectors(images, whitening)
        closed = GaussianNoises(whitening, event.schedule).iteration_gain(timestep, count)
        fit = spectral_fit(along_x, along_eigenvectors(made.eps[count], whitening))
        points = compared(fit, spectral_fit(along_x, along_x * closed), whitening)
        named = {"": points["model"], "_gaussian": points["gaussian"]}
        found = {f"{key}{end}": value for end, point in named.items() for key, value in point.items()}
        values = {key: float(value) for key, value in found.items() if value is not None}
        how = {"num_images": num_images, "num_fixed_points": len(images), "num_iterations": count, "ridge": self.ridge}
        values |= made.progress(count) | {key: float(value) for key, value in how.items()}
        arrays: dict[str, Tensor] = {"eigenvalues": whitening.eigenvalues, "gain": fit.gains.gain}
        return ProbeResult(values | {"timestep": float(timestep)}, arrays | {"gain_gaussian": closed})
