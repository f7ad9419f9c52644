"""When does de-whitening emerge? P2's iteration at every checkpoint, against ZCA whitening of real images.

P2: *First-step inference in diffusion models learns image de-whitening*.
"""

import math
from dataclasses import asdict

from probediff.callbacks.base import Probe
from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.pairs import NetworkNoises
from probediff.whitening.spectral import ComparedMap, along_eigenvectors

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
        self.check_options(3, num_images=num_images, num_fixed_points=num_fixed_points)
        self.check_options(1, num_iterations=num_iterations)
        if not 0 < timestep_share <= 1:
            raise ValueError(f"whitening.timestep_share must be above 0 and at most 1, got {timestep_share}; P2: 0.98")
        if not 0 <= ridge < math.inf:
            raise ValueError(f"whitening.ridge must be 0 or more, got {ridge}; 1e-4 is little beside natural images")
        self.num_images = num_images
        self.num_fixed_points = num_fixed_points
        self.num_iterations = num_iterations
        self.timestep_share = timestep_share
        self.ridge = ridge
        self._statistics: tuple[WhiteningTransform, int] | None = None

    def check(self, context: ProbeContext) -> None:
        """Whiten the real images, so that what cannot be whitened is refused before training."""
        if context.real_images is None:
            raise ValueError("whitening needs real images, got a run without a data set; set its enabled to false")
        self._real_images = context.real_images
        images = self._real_images(self.num_images)
        if images.shape[1:] != context.image_shape:
            raise ValueError(
                f"whitening needs images in the shape of what the model diffuses, {tuple(context.image_shape)}, got "
                f"{tuple(images.shape[1:])}; for a latent diffusion model use `probediff whitening`"
            )
        size = images[0].numel()
        if images.shape[1:] != context.image_shape:
            raise ValueError(
                f"whitening needs real images of {context.image_shape}, as the model diffuses them, got "
                f"{tuple(images.shape[1:])}; take the command `probediff whitening`, which encodes them"
            )
        if len(images) < 3:
            raise ValueError(
                f"whitening needs at least 3 real images, got {len(images)}; give more, or set its enabled to false"
            )
        if self.ridge == 0 and len(images) <= size:
            raise ValueError(
                f"whitening.num_images must be more than the {size} values of an image, got {len(images)}; raise it, "
                f"or set whitening.ridge to 1e-4"
            )
        estimate = moments(images.split(_CHUNK))
        try:
            whitening = WhiteningTransform.from_covariance(estimate.mean, estimate.covariance, self.ridge)
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
        iterates = NetworkNoises(event.model, batch_size=event.settings.batch_size).iterates(images, timestep, [count])
        along_x, along_z = (along_eigenvectors(rows, whitening) for rows in (images, iterates.eps[count]))
        gain = GaussianNoises(whitening, event.schedule).iteration_gain(timestep, count)
        compared = ComparedMap.of("iterations", count, (along_x, along_z), gain, whitening)
        point, point_gaussian = map(asdict, compared.points())
        errors, errors_gaussian = compared.errors()
        errors |= {f"{name}_gaussian": error for name, error in errors_gaussian.items()}
        numbers = point | {f"{name}_gaussian": value for name, value in point_gaussian.items()}
        numbers |= iterates.progress(count) | {"num_images": num_images, "num_fixed_points": len(images)}
        numbers |= {"num_iterations": count, "ridge": self.ridge, "timestep": timestep}
        values = {name: float(value) for name, value in numbers.items() if value is not None}
        arrays = {"eigenvalues": whitening.eigenvalues, "gain": compared.model.gain, "gain_gaussian": gain}
        errors = {name: error for name, error in errors.items() if name in values}
        return ProbeResult(values, arrays, standard_errors=errors)
