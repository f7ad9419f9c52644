"""What every probe is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import ProbePass
from probediff.runs.folder import RunFolder
from probediff.runs.results import ProbeResult


@dataclass(frozen=True)
class ProbeContext:
    """What a probe may check before training starts.

    Attributes:
        settings: what the shared pass will make.
        image_shape: (C, H, W).
        folder: the run's folder.
        real_images: n -> n real images, (n, C, H, W) in [-1, 1]; None where there are none.
        decode: codes -> pixels, for a latent diffusion model.
    """

    settings: PassSettings
    image_shape: tuple[int, int, int]
    folder: RunFolder
    real_images: Callable[[int], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None

    def stored_pixels(self, step: int, count: int) -> Tensor:
        """The first ``count`` stored samples of ``step``, as images for eyes."""
        x_0 = self.folder.load_samples(step)[:count]
        return x_0 if self.decode is None else self.decode(x_0)


class Probe:
    """A measurement at checkpoints. ``Probing`` runs the shared pass and hands it to every enabled probe.

    A subclass defines ``measure``; its name in records, dashboards and configurations is the class name in snake case.
    ``measure`` runs on the first process only, without gradients, in eval mode; random states are put back.

    Args:
        enabled: whether the probe runs.
    """

    #: Whether the probe reads ``event.latent``; inversion is skipped when no probe does.
    needs_latent: ClassVar[bool] = False
    #: Whether the probe needs to know which noise made which image; it is left out for a user's images.
    needs_pairs: ClassVar[bool] = False
    #: Whether the probe reads ``event.trajectory``.
    needs_trajectory: ClassVar[bool] = False

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @classmethod
    def name(cls) -> str:
        """Name of the probe in keys: ``InversionAngles`` -> ``inversion_angles``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def check(self, context: ProbeContext) -> None:
        """Raise ValueError, before training starts, for anything that would make ``measure`` fail."""

    def measure(self, event: ProbePass) -> ProbeResult:
        """Measure one pass."""
        raise NotImplementedError

    def finish(self, context: ProbeContext) -> dict[int, ProbeResult]:
        """Results by step that can only be had when training has ended; recorded as ``<name>_final``."""
        return {}
