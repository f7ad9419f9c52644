"""The noise-sample-latent triangle and pictures of latents (*There and Back Again*, figures 1, 2, 4)."""

from dataclasses import asdict
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from probediff.callbacks.base import Probe
from probediff.measures import angle_of_mean_cosine, most_probable_triangle, triangle_angles, triangle_distances
from probediff.pictures import grid, to_uint8, triangle
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


def _mean_std(name: str, values: Tensor, unit: str = "") -> dict[str, float]:
    return {f"{name}_mean{unit}": float(values.mean()), f"{name}_std{unit}": float(values.std(correction=0))}


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
        values: dict[str, float] = {}
        for vertex in ("noise", "image", "latent"):
            values |= _mean_std(f"at_{vertex}", getattr(angles, f"at_{vertex}_deg"), "_deg")
            values[f"at_{vertex}_most_probable_deg"] = float(getattr(likely, f"at_{vertex}_deg"))
        values["at_image_of_mean_cosine_deg"] = angle_of_mean_cosine(noise - x_0, latent - x_0)
        for side, lengths in asdict(distances).items():
            values |= _mean_std(f"distance_{side}", lengths)
        values |= {
            "latent_mean": float(latent.double().mean()),
            "latent_std": float(latent.double().std(correction=0)),
        }
        arrays = {name: value.float() for name, value in (asdict(angles) | asdict(distances)).items()}
        pictures = {
            "latents": self._picture(event, noise, latent),
            "triangle": triangle(likely.at_noise_deg, likely.at_image_deg, likely.at_latent_deg),
        }
        histograms = ("at_noise_deg", "at_image_deg", "at_latent_deg")
        return ProbeResult(values, arrays, pictures, histograms)

    def _picture(self, event: ProbePass, noise: Tensor, latent: Tensor) -> Tensor:
        """Rows: samples, latents (-3..3), latent minus noise (-2..2)."""
        n = min(self.num_shown, len(noise))
        samples = to_uint8(event.pixels(event.x_0[:n]))
        shown = [to_uint8(latent[:n], (-3, 3)), to_uint8((latent - noise)[:n], (-2, 2))]
        rows = [samples, *(interpolate(images, samples.shape[-2:]) for images in shown)]
        return grid(torch.cat(rows), n)
