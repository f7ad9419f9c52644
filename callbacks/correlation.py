"""Correlated pixels: how far from white noise are the latents? (*There and Back Again*, table 1)"""

import math
from typing import ClassVar

from probediff.callbacks.base import Probe
from probediff.measures import null_top_k_correlation, top_k_correlation
from probediff.measures.correlation import top_k_correlation_error
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


class PixelCorrelation(Probe):
    """Mean of the k largest absolute Pearson correlations between pixels, for noise, latent and sample.

    Args:
        enabled: whether the probe runs.
        k: how many of the largest correlations are averaged (the paper: 10).
    """

    needs_latent: ClassVar[bool] = True

    def __init__(self, enabled: bool = True, k: int = 10) -> None:
        super().__init__(enabled)
        self.check_options(1, k=k)
        self.k = k

    def check(self, context: ProbeContext) -> None:
        """Needs enough images for the expected null, and as many pairs of pixels as are averaged."""
        self.check_num_samples(context, 4)
        if self.k > (num_pairs := math.comb(math.prod(context.image_shape), 2)):
            raise ValueError(
                f"pixel_correlation.k must be at most the {num_pairs} pairs of pixels of {context.image_shape}, got "
                f"{self.k}; lower it"
            )

    def measure(self, event: ProbePass) -> ProbeResult:
        """The three correlations, with the value expected of white noise for this N and D."""
        assert event.latent is not None
        values = {
            "noise": top_k_correlation(event.noise, self.k),
            "latent": top_k_correlation(event.latent, self.k),
            "sample": top_k_correlation(event.x_0, self.k),
            "null": null_top_k_correlation(len(event.noise), math.prod(event.noise.shape[1:]), self.k),
            "k": float(self.k),
        }
        sets = {"noise": event.noise, "latent": event.latent, "sample": event.x_0}
        errors = {name: top_k_correlation_error(images, self.k) for name, images in sets.items()}
        return ProbeResult(values, standard_errors={name: e for name, e in errors.items() if not math.isnan(e)})
