"""Published numbers of *There and Back Again* computed as its authors did, beside those of the other probes."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.measures import angle_of_mean_cosine, triangle_angles
from probediff.measures.paper_compat import (
    angle_of_std_cosine,
    cka_min_max,
    most_probable_triangle_floored,
    plain_areas_open_border,
    ssim_min_max,
    svcca_randomised,
    without_last_batch,
)
from probediff.probing.probe import ProbeContext, compare_with_final
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


class PaperCompat(Probe):
    """The authors' way where it differs; what differs is said by ``probediff.measures.paper_compat``.

    Args:
        enabled: whether the probe runs; only a comparison with their tables needs it.
        num_directions: leading directions of SVCCA (the paper: 10).
    """

    needs_latent: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True

    def __init__(self, enabled: bool = False, num_directions: int = 10) -> None:
        super().__init__(enabled)
        self.check_options(1, num_directions=num_directions)
        self.num_directions = num_directions

    def check(self, context: ProbeContext) -> None:
        """Needs a whole batch, and more samples than directions."""
        settings = context.settings
        if settings.num_samples < settings.batch_size:
            raise ValueError(
                f"paper_compat drops incomplete batches, so that probing.settings.num_samples must be at least "
                f"batch_size ({settings.batch_size}), got {settings.num_samples}; lower the batch_size"
            )
        if not self.num_directions < settings.num_samples:
            raise ValueError(
                f"paper_compat.num_directions must be below probing.settings.num_samples ({settings.num_samples}), "
                f"got {self.num_directions}"
            )

    def measure(self, event: ProbePass) -> ProbeResult:
        """Angles of the mean and of the std of cosines, without the last batch; the floored most probable triangle."""
        assert event.latent is not None
        parts = (event.noise, event.x_0, event.latent)
        noise, x_0, latent = (without_last_batch(part, event.settings.batch_size) for part in parts)
        likely = most_probable_triangle_floored(triangle_angles(noise, x_0, latent))
        corners = {"noise": (noise, x_0, latent), "image": (x_0, noise, latent), "latent": (latent, noise, x_0)}
        values = {"num_samples": float(len(noise))}
        for name, (corner, first, second) in corners.items():
            values[f"at_{name}_of_mean_cosine_deg"] = angle_of_mean_cosine(first - corner, second - corner)
            values[f"at_{name}_of_std_cosine_deg"] = angle_of_std_cosine(first - corner, second - corner)
            values[f"at_{name}_most_probable_deg"] = float(getattr(likely, f"at_{name}_deg"))
        plain = plain_areas_open_border(x_0)
        error = (latent - noise).abs().mean(dim=1)
        values |= {"plain_share": float(plain.double().mean()), "error_plain": _mean_where(error, plain)}
        values["error_not_plain"] = _mean_where(error, ~plain)
        return ProbeResult(values)

    def finish(self, context: ProbeContext) -> dict[int, ProbeResult]:
        """Similarities of min-max scaled samples to those of the final checkpoint."""
        return compare_with_final(
            context.folder,
            lambda x_0, final: {
                "cka_min_max": cka_min_max(x_0, final),
                "cka_unbiased_min_max": cka_min_max(x_0, final, unbiased=True),
                "svcca_randomised": svcca_randomised(x_0, final, self.num_directions),
                "ssim_min_max": ssim_min_max(x_0, final),
            },
        )


def _mean_where(values: Tensor, chosen: Tensor) -> float:
    return float(torch.mean(values[chosen].double())) if bool(chosen.any()) else math.nan
