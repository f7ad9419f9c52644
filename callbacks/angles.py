"""The noise-sample-latent triangle and pictures of latents (*There and Back Again*, figures 1, 2, 4)."""

from dataclasses import asdict
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from probediff.callbacks.base import Probe
from probediff.measures import (
    angle_of_mean_cosine,
    cosine_similarity,
    most_probable_triangle,
    triangle_angles,
    triangle_distances,
)
from probediff.measures.uncertainty import (
    WithError,
    error_of_means,
    mean_with_error,
    moments_with_errors,
    split_errors,
    std_with_error,
)
from probediff.pictures import grid, to_uint8, triangle
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


def _mean_std(name: str, values: Tensor, unit: str = "") -> dict[str, WithError | float]:
    return {f"{name}_mean{unit}": mean_with_error(values), f"{name}_std{unit}": std_with_error(values)}


def _angle_of_mean_cosine(a: Tensor, b: Tensor) -> WithError:
    error = error_of_means(lambda means: torch.rad2deg(means[0].clamp(-1, 1).acos()), cosine_similarity(a, b))
    return WithError(angle_of_mean_cosine(a, b), error)


class InversionAngles(Probe):
    """Angles and side lengths of the triangle of noise, sample and latent, per sample.

    Args:
        enabled: whether the probe runs.
        num_shown: samples in the picture of samples, latents and latent minus noise.
    """

    needs_latent: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True

    def __init__(self, enabled: bool = True, num_shown: int = 16) -> None:
        super().__init__(enabled)
        self.check_options(1, num_shown=num_shown)
        self.num_shown = num_shown

    def measure(self, event: ProbePass) -> ProbeResult:
        """Mean, std and most probable triangle; per-sample angles and distances; the authors' mean beside ours."""
        assert event.latent is not None
        noise, x_0, latent = event.noise, event.x_0, event.latent
        angles, distances = triangle_angles(noise, x_0, latent), triangle_distances(noise, x_0, latent)
        likely = most_probable_triangle(angles)
        numbers: dict[str, WithError | float] = {}
        for vertex in ("noise", "image", "latent"):
            numbers |= _mean_std(f"at_{vertex}", getattr(angles, f"at_{vertex}_deg"), "_deg")
            # A mode: no jackknife tells its error.
            numbers[f"at_{vertex}_most_probable_deg"] = float(getattr(likely, f"at_{vertex}_deg"))
        numbers["at_image_of_mean_cosine_deg"] = _angle_of_mean_cosine(noise - x_0, latent - x_0)
        for side, lengths in asdict(distances).items():
            numbers |= _mean_std(f"distance_{side}", lengths)
        numbers["latent_mean"], numbers["latent_std"] = moments_with_errors(latent)
        values, errors = split_errors(numbers)
        arrays = {name: value.float() for name, value in (asdict(angles) | asdict(distances)).items()}
        pictures = {
            "latents": self._picture(event, noise, latent),
            "triangle": triangle(likely.at_noise_deg, likely.at_image_deg, likely.at_latent_deg),
        }
        histograms = ("at_noise_deg", "at_image_deg", "at_latent_deg")
        return ProbeResult(values, arrays, pictures, histograms, standard_errors=errors)

    def _picture(self, event: ProbePass, noise: Tensor, latent: Tensor) -> Tensor:
        """Rows: samples, latents (-3..3), latent minus noise (-2..2)."""
        n = min(self.num_shown, len(noise))
        samples = to_uint8(event.pixels(event.x_0[:n]))
        shown = [to_uint8(latent[:n], (-3, 3)), to_uint8((latent - noise)[:n], (-2, 2))]
        rows = [samples, *(interpolate(images, samples.shape[-2:]) for images in shown)]
        return grid(torch.cat(rows), n)
