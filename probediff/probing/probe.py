"""What every probe is."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from torch import Tensor

from probediff.display.progress import progress_bar
from probediff.measures.uncertainty import WithError, split_errors
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import ProbePass
from probediff.runs.folder import END_OF_EVENT, FINISHED, RunFolder
from probediff.runs.results import ProbeResult
from probediff.schedule import NoiseSchedule

#: Names of records that are no probe's.
RESERVED = (END_OF_EVENT, FINISHED, "training", "train", "pass")


@dataclass(frozen=True)
class TrainingImages:
    """What is known of the images that a model was trained on, where the real images are these.

    Attributes:
        mirrored: whether training flips them; None where that is not known.
        held_out: n -> n images of the same kind that were not trained on, (n, C, H, W) in [-1, 1], or None where there
            are none.
    """

    mirrored: bool | None = None
    held_out: Callable[[int], Tensor | None] = lambda count: None


@dataclass(frozen=True)
class ProbeContext:
    """What a probe may check before training starts.

    Attributes:
        settings: what the shared pass will make.
        image_shape: (C, H, W).
        folder: the run's folder.
        real_images: n -> n real images, (n, C, H, W) in [-1, 1]; None where there are none.
        decode: codes -> pixels, for a latent diffusion model.
        training: what is known of the training images, if the real images are known to be these.
        schedule: the model's noise schedule.
    """

    settings: PassSettings
    image_shape: tuple[int, int, int]
    folder: RunFolder
    real_images: Callable[[int], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    training: TrainingImages | None = None
    schedule: NoiseSchedule | None = None

    def stored_pixels(self, step: int, count: int) -> Tensor:
        """The first ``count`` stored samples of ``step``, as images for eyes."""
        x_0 = self.folder.load_samples(step)[:count]
        return x_0 if self.decode is None else self.decode(x_0)


def images_function(images: Tensor | Callable[[int], Tensor] | None) -> Callable[[int], Tensor] | None:
    """Real images as probes ask for them, n -> n of them; of a tensor the first ones.

    Raises:
        ValueError: they are neither.
    """
    if images is None or callable(images):
        return images
    if not (isinstance(images, Tensor) and images.ndim == 4):
        words = f"a tensor {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"real_images must be a tensor (N, C, H, W) or a function n -> n images, got {words}")

    def first(count: int) -> Tensor:
        if len(images) < count:
            raise ValueError(f"real_images must be at least {count} here, got {len(images)}; hand over more")
        return images[:count]

    return first


def check_probes(probes: Sequence[Probe], context: ProbeContext) -> None:
    """Raise ValueError, before training starts, for what is no probe or could not be measured."""
    for probe in probes:
        if not isinstance(probe, Probe):
            raise ValueError(f"probes must be objects such as InversionAngles(), got {probe!r}")
        probe.check(context)
    names = [probe.name() for probe in probes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"probes must differ, got {', '.join(sorted(twice))} twice: leave one out")


def least_work(context: ProbeContext, probes: Iterable[Probe], schedule: NoiseSchedule) -> ProbeContext:
    """The context with as few samples and steps as its settings and the probes allow, to try whether all works.

    Settings that are refused anyway are left as they are.
    """

    def is_allowed(settings: PassSettings) -> bool:
        try:
            settings.check(schedule, context.image_shape)
            for probe in probes:
                probe.check(replace(context, settings=settings))
        except ValueError:
            return False
        return True

    settings = context.settings
    fewer = (replace(settings, num_steps=n) for n in range(1, settings.num_steps))
    settings = next(filter(is_allowed, fewer), settings)
    fewer = (replace(settings, num_samples=2**k) for k in range(2, settings.num_samples.bit_length()))
    settings = next(filter(is_allowed, fewer), settings)
    return replace(context, settings=settings)


def compare_with_final(
    folder: RunFolder, compare: Callable[[Tensor, Tensor], Mapping[str, WithError | float]]
) -> dict[int, ProbeResult]:
    """Compare the stored samples of every earlier step with the final ones, for ``Probe.finish``.

    A number that comes with its standard error has that recorded too. A step whose samples cannot be read, or
    compared, has the error in place of values.
    """
    *earlier, final_step = folder.sample_steps() or [0]
    results = {}
    final = folder.load_samples(final_step) if earlier else None
    for step in progress_bar(earlier, desc="similarity to the final samples", leave=False):
        try:
            values, errors = split_errors(compare(folder.load_samples(step), cast(Tensor, final)))
            results[step] = ProbeResult(values, standard_errors=errors)
        except Exception as error:
            results[step] = ProbeResult(error=f"{type(error).__name__}: {error}")
    return results


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
    #: Whether the probe compares with the samples of the step before: steps that are probed later come in between.
    needs_previous: ClassVar[bool] = False

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @classmethod
    def name(cls) -> str:
        """Name of the probe in keys: ``InversionAngles`` -> ``inversion_angles``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init_subclass__(cls, **others: Any) -> None:
        """Refuse names that records have for something else."""
        super().__init_subclass__(**others)
        if cls.name() in RESERVED or cls.name().endswith("_final"):
            raise ValueError(
                f"a probe must not be called {cls.name()}, which records have for something else; rename it"
            )

    def options(self) -> dict[str, Any]:
        """The arguments that it was made with, beside ``enabled``, as plain types for the records."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name not in ("self", "enabled")]
        return {name: _as_plain(getattr(self, name)) for name in names if hasattr(self, name)}

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

    def check_num_directions(self, context: ProbeContext, num_directions: int) -> None:
        """Raise ValueError unless samples can have so many singular directions: below their number, at most D."""
        num_samples, size = context.settings.num_samples, math.prod(context.image_shape)
        if num_directions > min(num_samples - 1, size):
            raise ValueError(
                f"{self.name()}.num_directions must be below probing.settings.num_samples ({num_samples}) and at most "
                f"the {size} values of a sample, got {num_directions}; lower it or probe more samples"
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


def _as_plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
