"""Do latents interpolate like the noises they stand for? Images on the way between pairs of both."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.files.capacity import check_memory
from probediff.measures import midpoint_contrast, path_lengths, pixel_variance, slerp_path, ssim
from probediff.measures.uncertainty import WithError, error_of_means, mean_with_error, split_errors
from probediff.pictures import grid, to_uint8
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


def _contrast(images: Tensor) -> WithError:
    ends, middle = ([pixel_variance(images[k]).sqrt() for k in places] for places in ((0, -1), (len(images) // 2,)))
    error = error_of_means(lambda means: 2 * means[0] / (means[1] + means[2]), *middle, *ends)
    return WithError(midpoint_contrast(images), error)


class LatentInterpolation(Probe):
    """Images from spherical interpolation between noises, beside those between the latents of the same samples.

    Costs ``2 * num_pairs * num_points`` extra samples, so it is off unless asked for.

    Args:
        enabled: whether the probe runs.
        num_pairs: pairs (0, 1), (2, 3), ... of the fixed noises.
        num_points: images on each path, ends included; odd, so that one lies in the middle.
    """

    needs_latent: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True

    def __init__(self, enabled: bool = False, num_pairs: int = 8, num_points: int = 9) -> None:
        super().__init__(enabled)
        self.check_options(1, num_pairs=num_pairs)
        if num_points < 3 or num_points % 2 == 0:
            raise ValueError(f"latent_interpolation.num_points must be odd and at least 3, got {num_points}")
        self.num_pairs = num_pairs
        self.num_points = num_points

    def check(self, context: ProbeContext) -> None:
        """Needs enough samples for the pairs, and images that SSIM's window fits into."""
        if 2 * self.num_pairs > context.settings.num_samples:
            raise ValueError(
                f"latent_interpolation.num_pairs must be at most half of probing.settings.num_samples "
                f"({context.settings.num_samples}), got {self.num_pairs}; lower it or probe more samples"
            )
        self.check_image_size(context, 7, " (SSIM window)")
        size = 4 * 2 * self.num_pairs * self.num_points * math.prod(context.image_shape)
        check_memory("latent_interpolation.num_points", self.num_points, size, "lower it")

    def measure(self, event: ProbePass) -> ProbeResult:
        """Likeness of the two midpoints, lengths of both paths, contrast of the midpoints; the paths as a picture."""
        assert event.latent is not None
        from_noise, from_latent = self._images(event, event.noise), self._images(event, event.latent)
        middle = self.num_points // 2
        noise_middle, latent_middle = from_noise[middle].clamp(-1, 1), from_latent[middle].clamp(-1, 1)
        numbers: dict[str, WithError | float] = {
            "midpoint_ssim": mean_with_error(ssim(noise_middle, latent_middle)),
            "path_length_noise": mean_with_error(path_lengths(from_noise)),
            "path_length_latent": mean_with_error(path_lengths(from_latent)),
            "midpoint_contrast_noise": _contrast(from_noise),
            "midpoint_contrast_latent": _contrast(from_latent),
            "num_pairs": float(self.num_pairs),
            "num_points": float(self.num_points),
        }
        if self.num_pairs > 1:
            numbers["midpoint_ssim_null"] = mean_with_error(ssim(noise_middle, latent_middle.roll(-1, dims=0)))
        # (P, K, C, H, W) twice -> for each pair the row of the noises above the row of the latents.
        rows = torch.stack([from_noise, from_latent]).permute(2, 0, 1, 3, 4, 5).flatten(0, 2)
        values, errors = split_errors(numbers)
        return ProbeResult(values, pictures={"paths": grid(to_uint8(rows), self.num_points)}, standard_errors=errors)

    def _images(self, event: ProbePass, starts: Tensor) -> Tensor:
        """(num_points, num_pairs, C, H, W) images on the paths between consecutive ``starts``."""
        pairs = starts[: 2 * self.num_pairs]
        points = slerp_path(pairs[0::2], pairs[1::2], self.num_points)
        images = event.pixels(event.sample(points.flatten(0, 1)))
        return images.unflatten(0, points.shape[:2])
