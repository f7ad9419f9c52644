"""The analytic denoisers by the names that users give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from probediff.denoisers.equivariant import EquivariantScoreMachine
from probediff.denoisers.filtered import NearestImage, OptimalDenoiser
from probediff.denoisers.local import LocalScoreMachine, PCALocality
from probediff.denoisers.wiener import WienerDenoiser
from probediff.measures.covariance import Moments
from probediff.schedule import NoiseSchedule

_MAKERS: Mapping[str, Callable[..., nn.Module]] = {
    "wiener": WienerDenoiser.of_images,
    "optimal": OptimalDenoiser,
    "nearest": NearestImage,
    "local": LocalScoreMachine,
    "equivariant": EquivariantScoreMachine,
    "pca_locality": PCALocality,
}
#: Those that are made of mean and covariance too.
OF_STATISTICS = ("wiener", "pca_locality")
#: The kinds, and the options that each takes beside the images.
ANALYTIC_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "wiener": (),
    "optimal": (),
    "nearest": (),
    "local": ("patch_size",),
    "equivariant": ("patch_size", "border"),
    "pca_locality": ("mask_threshold",),
}


def analytic_denoiser(
    kind: str,
    images: Tensor,
    schedule: NoiseSchedule,
    mirrored: bool = False,
    statistics: Moments | None = None,
    **options: Any,
) -> nn.Module:
    """A denoiser made of training images by a formula; see docs/analytic_denoisers.md.

    Args:
        kind: ``wiener`` (their Gaussian), ``optimal`` (their softmax), ``nearest`` (the nearest of them), ``local``
            (patches at the same place), ``equivariant`` (patches of all places), ``pca_locality`` (what the Wiener
            filter weighs).
        images: (M, C, H, W) floating point, in the range the denoiser will see, [-1, 1]; M at least 2.
        schedule: Noise schedule whose alpha_bar the timesteps index.
        mirrored: Whether each image counts with its mirror image.
        statistics: For ``wiener`` and ``pca_locality``, mean and covariance, where the images are only a part of a
            larger set; by default their own.
        options: ``patch_size`` (local, equivariant), ``border`` (equivariant), ``mask_threshold`` (pca_locality), as
            of the classes.

    Returns:
        A module with ``forward(x, timestep) -> eps`` and ``predict(x, timestep) -> (x_0, eps)``, in the dtype and on
        the device of the images.

    Raises:
        TypeError: When the images are not floating point.
        ValueError: An unknown kind, an option that it does not take, a bad value, or images of another shape.
    """
    if kind not in _MAKERS:
        raise ValueError(f"denoiser must be one of {', '.join(_MAKERS)}, got {kind!r}")
    known = ANALYTIC_OPTIONS[kind]
    if unknown := [name for name in options if name not in known]:
        takes = f"must be among {', '.join(known)}" if known else "must be left out"
        raise ValueError(f"options of the denoiser {kind} {takes}, got {', '.join(unknown)}")
    if kind in OF_STATISTICS:
        options["statistics"] = statistics
    return _MAKERS[kind](images, schedule, mirrored=mirrored, **options)
