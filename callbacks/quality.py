"""How near are the samples to real images? FID and KID in the features of any network."""

import warnings
from collections.abc import Callable

from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.features.distances import feature_distances
from probediff.features.networks import FeatureNetwork, extract, load_networks
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


class SampleQuality(Probe):
    """FID and KID of the samples against real images, beside those of equally many other real images.

    Args:
        enabled: whether the probe runs; without ``features`` it has nothing to measure.
        features: feature networks as for ``checkpoint_similarity``: ``dino``, ``clip``, ``timm/NAME[=PATH]``,
            ``open_clip/NAME[=PATH]``.
        num_real: real images that stand for the data; all where there are fewer. A null needs as many more as there
            are samples.
        kid_subset_size: images in each of KID's 100 subsets.
    """

    def __init__(
        self,
        enabled: bool = True,
        features: list[str] = [],  # noqa: B006
        num_real: int = 10_000,
        kid_subset_size: int = 100,
    ) -> None:
        super().__init__(enabled)
        self.check_options(2, num_real=num_real, kid_subset_size=kid_subset_size)
        self.features = list(features)
        self.num_real = num_real
        self.kid_subset_size = kid_subset_size
        self._networks: dict[str, FeatureNetwork] = {}
        self._real_images: Callable[[int], Tensor] | None = None
        self._real: dict[str, Tensor] = {}

    def check(self, context: ProbeContext) -> None:
        """Load the networks; refuse sets too small for KID, warn of those too small for FID."""
        if not self.features:
            return
        num_samples = context.settings.num_samples
        if context.real_images is None:
            raise ValueError("sample_quality needs real images, got a run without a data set; set its features to '[]'")
        if context.real_images != self._real_images:
            self._real_images, self._real = context.real_images, {}
        images = context.real_images(self.num_real)
        num_real = len(images)
        if self.kid_subset_size > min(num_samples, num_real):
            raise ValueError(
                f"sample_quality.kid_subset_size must be at most probing.settings.num_samples ({num_samples}), "
                f"sample_quality.num_real ({self.num_real}) and the real images that are there ({num_real} of those), "
                f"got {self.kid_subset_size}; lower it"
            )
        self._networks = load_networks(self.features)
        for name, network in self._networks.items():
            num_features = extract(network, images[:1]).shape[1]
            if min(num_samples, num_real) <= num_features:
                warnings.warn(
                    f"sample_quality: FID of {num_samples} samples and {num_real} real images in the "
                    f"{num_features} features of {name!r} has covariances without full rank; use more of both, or KID",
                    stacklevel=2,
                )

    def measure(self, event: ProbePass) -> ProbeResult:
        """FID and KID for every network, with the values of real images as their null."""
        if not self._networks:
            return ProbeResult()
        images = event.pixels()
        values: dict[str, float] = {"num_samples": float(len(images)), "kid_subset_size": float(self.kid_subset_size)}
        for name, network in self._networks.items():
            fake, real = extract(network, images), self._real_features(name, len(images))
            # The images after the reference are as many as the samples; a small data set has fewer, or none.
            reference, others = real[: self.num_real], real[self.num_real :]
            values |= self._distances(name, reference, fake, "")
            if len(others) == len(fake):
                values |= self._distances(name, reference, others, "_null")
            values["num_real"] = float(len(reference))
            values[f"{name}_fid_full_rank"] = float(min(len(fake), len(reference)) > fake.shape[1])
        return ProbeResult(values)

    def _distances(self, name: str, real: Tensor, fake: Tensor, suffix: str) -> dict[str, float]:
        distances = feature_distances(real, fake, self.kid_subset_size)
        return {
            f"{name}_fid{suffix}": distances.fid,
            f"{name}_kid{suffix}": distances.kid,
            f"{name}_kid_std{suffix}": distances.kid_std,
        }

    def _real_features(self, name: str, num_others: int) -> Tensor:
        """Features of the reference and of the images for the null, extracted once in a run."""
        if name not in self._real:
            assert self._real_images is not None
            images = self._real_images(self.num_real + num_others)
            self._real[name] = extract(self._networks[name], images)
        return self._real[name]
