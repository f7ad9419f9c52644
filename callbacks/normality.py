"""How far are latents from white noise? Is the inversion error larger in flat areas? (*There and Back Again*, F1)"""

import math
from typing import ClassVar

from probediff.callbacks.base import Probe
from probediff.measures import latent_normality, plain_area_errors
from probediff.measures.normality_errors import normality_errors
from probediff.measures.plain_areas import PLAIN_THRESHOLD
from probediff.measures.uncertainty import WithError, split_errors
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


class LatentNormality(Probe):
    """Tests and statistics of the latents, each beside its value for white noise; the error in plain areas.

    Args:
        enabled: whether the probe runs.
        shapiro_samples: the Shapiro-Wilk test looks at so many of the first samples.
    """

    needs_latent: ClassVar[bool] = True

    def __init__(self, enabled: bool = True, shapiro_samples: int = 1000) -> None:
        super().__init__(enabled)
        self.check_options(1, shapiro_samples=shapiro_samples)
        self.shapiro_samples = shapiro_samples

    def check(self, context: ProbeContext) -> None:
        """Needs moments over the samples, and neighbouring pixels."""
        self.check_num_samples(context, 2)
        self.check_image_size(context, 2)

    def measure(self, event: ProbePass) -> ProbeResult:
        """Every statistic with its null; the split error where a noise is known and pixels are what is inverted."""
        assert event.latent is not None
        normality = latent_normality(event.latent, self.shapiro_samples)
        numbers: dict[str, WithError | float] = {"shapiro_samples": float(min(self.shapiro_samples, len(event.latent)))}
        errors = normality_errors(event.latent, normality, self.shapiro_samples)
        for name, statistic in normality.scalars().items():
            numbers |= {name: WithError(statistic.value, errors[name]), f"{name}_null": statistic.null}
        # Codes of a latent-diffusion model are no pixels in [-1, 1]: the threshold says nothing about them.
        if event.paired and event.shows_pixels:
            split = plain_area_errors(event.noise, event.x_0, event.latent)
            of_areas = {name: value for name, value in vars(split).items() if name != "standard_errors"}
            known = split.standard_errors
            numbers |= {f"plain_area_{k}": WithError(v, known.get(k, math.nan)) for k, v in of_areas.items()}
            numbers["plain_area_threshold"] = PLAIN_THRESHOLD
        arrays = {
            "ks_distance": normality.ks_distances.float(),
            "radial_frequency": normality.radial_power.frequency.float(),
            "radial_power": normality.radial_power.power.float(),
        }
        values, known = split_errors(numbers)
        return ProbeResult(values, arrays, standard_errors=known)
