"""What every probe is."""

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
    In a Lightning trainer a probe is a ``probediff.callbacks.Probe``, which is this one and a callback.
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

    def check_options(self, least: int, **options: int) -> None:
        """Raise ValueError unless each of the probe's ``options`` is at least ``least``."""
        for name, value in options.items():
            if value < least:
                raise ValueError(f"{self.name()}.{name} must be at least {least}, got {value}")

    def check_num_samples(self, context: ProbeContext, least: int) -> None:
        """Raise ValueError unless the pass makes at least ``least`` samples."""
        if context.settings.num_samples < least:
            raise ValueError(
                f"{self.name()} needs probing.settings.num_samples of at least {least}, got "
                f"{context.settings.num_samples}; raise it or set --{self.name()}.enabled false"
            )

    def check_image_size(self, context: ProbeContext, least: int, why: str = "") -> None:
        """Raise ValueError unless the images have at least ``least`` x ``least`` pixels; ``why`` is appended."""
        if min(context.image_shape[1:]) < least:
            raise ValueError(
                f"{self.name()} needs images of at least {least}x{least} pixels{why}, got {context.image_shape}; "
                f"set --{self.name()}.enabled false"
            )

    def check(self, context: ProbeContext) -> None:
        """Raise ValueError, before training starts, for anything that would make ``measure`` fail."""

    def measure(self, event: ProbePass) -> ProbeResult:
        """Measure one pass."""
        raise NotImplementedError

    def finish(self, context: ProbeContext) -> dict[int, ProbeResult]:
        """Results by step that can only be had when training has ended; recorded as ``<name>_final``."""
        return {}
