"""How near samples are to real images in the features of a frozen network: FID and KID by torchmetrics."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

_CHUNK_ROWS = 1024
_KID_SUBSETS = 100


class _PassThrough(nn.Module):
    """Takes the place of torchmetrics' network for features that are extracted already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


@dataclass(frozen=True)
class FeatureDistances:
    """Distances between two sets of features.

    Attributes:
        fid: Frechet distance of the two moment-matched Gaussians (Heusel et al. 2017, eq. 6). Biased upwards for
            finite sets: compare at equal sizes only.
        kid: squared maximum mean discrepancy with the cubic kernel (Binkowski et al. 2018, section 4), mean over
            random subsets; 0 on average for two sets of one distribution.
        kid_std: its standard deviation over the subsets.
    """

    fid: float
    kid: float
    kid_std: float


def feature_distances(real: Tensor, fake: Tensor, kid_subset_size: int) -> FeatureDistances:
    """FID and KID between features; in float64, with a fixed seed for KID's subsets.

    Args:
        real: (M, F) features of real images, as ``probediff.features.extract`` returns them.
        fake: (N, F) features of samples.
        kid_subset_size: features in each of KID's 100 subsets, 2..min(M, N).

    Raises:
        ValueError: shapes do not fit, values not finite, fewer than 2 features, or a bad subset size.
    """
    _check("real", real)
    _check("fake", fake)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real and fake must have equally many features, got {real.shape[1]} and {fake.shape[1]}; use one network"
        )
    smallest = min(len(real), len(fake))
    if not 2 <= kid_subset_size <= smallest:
        raise ValueError(
            f"kid_subset_size must be in 2..{smallest} (the smaller set), got {kid_subset_size}; lower it or use more"
        )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        torch.manual_seed(0)
        extracted = _PassThrough(real.shape[1])
        # Probes measure on the first process alone: a metric that waited for the others would wait for ever.
        frechet = FrechetInceptionDistance(feature=extracted, sync_on_compute=False)
        kernel = KernelInceptionDistance(
            feature=extracted, subsets=_KID_SUBSETS, subset_size=kid_subset_size, sync_on_compute=False
        )
        for features, is_real in ((real, True), (fake, False)):
            for chunk in torch.split(features.detach().double(), _CHUNK_ROWS):
                frechet.update(chunk, real=is_real)
                kernel.update(chunk, real=is_real)
        kid, kid_std = kernel.compute()
        return FeatureDistances(float(frechet.compute()), float(kid), float(kid_std))


def _check(name: str, features: Tensor) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"{name} must be (N, F) with N at least 2, got shape {tuple(features.shape)}; pass more images"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinite features; leave these images out")
