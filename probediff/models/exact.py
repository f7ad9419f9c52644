"""Exact denoisers of a run's training images, found by name: ``exact:RUN,h=0.4`` and ``gaussian:RUN``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

from torch import nn

from probediff.denoisers import ANALYTIC_OPTIONS, SmoothedEmpiricalDenoiser, analytic_denoiser
from probediff.denoisers.analytic import OF_STATISTICS
from probediff.denoisers.empirical import basis_bytes
from probediff.files.capacity import check_memory
from probediff.models.base import ProbeModel
from probediff.models.baseline import RunImages, fit_gaussian
from probediff.runs.configuration import CONFIG
from probediff.schedule import ScheduleName

EXACT, GAUSSIAN = "exact:", "gaussian:"
WIENER = "wiener"
#: How the names of their folders below ``RUN/probes`` begin.
EXACT_NAME = "exact-"
#: The family from the Gaussian to the training images, which the bandwidth h chooses from.
FAMILY = "smoothed_empirical"
#: What ``denoiser=KIND`` may be, with the options of each; ``_make`` makes them.
KINDS: dict[str, tuple[str, ...]] = {FAMILY: ("h", "dropped_weight"), **ANALYTIC_OPTIONS}
#: Options of every kind.
_OF_ALL = ("denoiser", "images", "schedule")
_OPTION = re.compile(r"(\w+)=([\w.+-]+)")


def _make(kind: str, options: dict[str, Any], images: RunImages) -> nn.Module:
    """The denoiser of a kind."""
    if kind != FAMILY:
        statistics = images.every().statistics() if kind in OF_STATISTICS else None
        seen = images.part(2, "images") if kind == WIENER else images
        return analytic_denoiser(kind, seen.read(), images.schedule, images.mirrored, statistics, **options)
    fitted_to = (images.read(), options["h"], images.schedule, images.mirrored)
    dropped = options.get("dropped_weight", 0.0)
    return SmoothedEmpiricalDenoiser(*fitted_to, dropped, images.every().statistics())


@dataclass(frozen=True)
class ExactModel:
    """An exact denoiser of the images of a run, as a user names it.

    Attributes:
        run: folder of the run.
        kind: one of ``KINDS``.
        num_images: so many training images, spread evenly over the set; None for all. Mean and covariance are always
            those of all.
        schedule: another one than the run's, with as many timesteps; None for the run's.
        options: those that were given, of this kind.
    """

    run: Path
    kind: str = FAMILY
    num_images: int | None = None
    schedule: ScheduleName | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, spec: str) -> ExactModel:
        """Read ``exact:RUN,KEY=VALUE,...``; RUN may hold commas.

        Raises:
            ValueError: neither h nor another denoiser, or an option that is none, is not this kind's, comes twice or
                lies outside of its range.
        """
        run, given = _split(spec.removeprefix(EXACT))
        options = _read_options(spec, given)
        kind, count = options.pop("denoiser", FAMILY), options.pop("images", None)
        schedule = options.pop("schedule", None)
        if schedule not in (None, *get_args(ScheduleName)):
            names = ", ".join(get_args(ScheduleName))
            raise ValueError(f"schedule=NAME must be one of {names}, got {schedule!r} in {spec}")
        if kind not in KINDS:
            raise ValueError(f"denoiser=KIND must be one of {', '.join(KINDS)}, got {kind!r} in {spec}")
        if unknown := [key for key in options if key not in KINDS[kind]]:
            raise ValueError(
                f"options of {spec} must be among {', '.join((*_OF_ALL, *KINDS[kind]))}, got {unknown[0]!r}; the name "
                f"is exact:RUN,KEY=VALUE,..."
            )
        if kind == FAMILY and "h" not in options:
            others = f", or another one with denoiser=KIND ({', '.join(ANALYTIC_OPTIONS)})"
            raise ValueError(
                f"{spec} must say which exact denoiser, got none: give its bandwidth with ,h=0.4 (0 is the training "
                f"set, 1 its Gaussian){others}"
            )
        _check_range(spec, "h", options.get("h"), "[0, 1]", lambda h: 0 <= h <= 1)
        _check_range(spec, "dropped_weight", options.get("dropped_weight"), "[0, 1)", lambda w: 0 <= w < 1)
        _check_range(spec, "images", count, "2, 3, ...", lambda m: isinstance(m, int) and m >= 2)
        return cls(run, kind, count, schedule, {key: options[key] for key in KINDS[kind] if key in options})

    @property
    def name(self) -> str:
        """That of its folder below ``RUN/probes``: ``exact-h=0.4``, ``exact-h=0.4,images=500``."""
        others = {"images": self.num_images, "schedule": self.schedule}
        given = self.options | {key: value for key, value in others.items() if value is not None}
        words = [f"{key}={v:.12g}" if isinstance(v, float) else f"{key}={v}" for key, v in given.items()]
        return EXACT_NAME + ",".join([*([] if self.kind == FAMILY else [self.kind]), *words])

    def load(self, trust: bool = False) -> ProbeModel:
        """Fit it to the run's images, under the run's schedule; where the run flips them, with their mirror images.

        Args:
            trust: import and run the class of the run's data, also if it is none of this package.

        Returns:
            The denoiser in float32; its step is 0.

        Raises:
            FileNotFoundError: no run there, or its data are gone.
            ValueError: more images than there are or than fit into memory, or a run that does not say its images.
        """
        return self.fit(RunImages.of(self.run, self.num_images, trust, "images"))

    def fit(self, images: RunImages) -> ProbeModel:
        """The same of images that are there already, as many as it says; ValueError where memory is too small."""
        images = images.under(self.schedule)
        self.check_memory(images)
        every = images.every()
        conventions = self._conventions(images.mirrored) | {"statistics_of": len(every.indices)}
        if self.options.get("h") == 1:
            # It is the one of `gaussian:RUN`.
            return every.model_of(every.gaussian(), **conventions)
        return images.model_of(_make(self.kind, self.options, images).eval(), **conventions)

    def check_memory(self, images: RunImages) -> None:
        """Raise ValueError where it does not fit into the memory of this machine, before the images are read."""
        if self.is_of_statistics:
            images.check_statistics()
            return
        count, size = len(images.indices), math.prod(images.array.shape[1:])
        basis = basis_bytes(size, images.mirrored) if self.kind in (FAMILY, *OF_STATISTICS) else 0
        # The images as they are, and centred or in the eigenbasis, in float32.
        check_memory("images", count, 2 * 4 * count * size + basis, "fit it to fewer, with ,images=M")

    @property
    def is_of_statistics(self) -> bool:
        """Whether mean and covariance of all images are all of it: no image is in it by itself."""
        return self.options.get("h") == 1 or self.kind == WIENER

    def _conventions(self, mirrored: bool) -> dict[str, Any]:
        """All that tells it apart from the other exact denoisers of a run: its tensors do not hold its options."""
        told = {"denoiser": self.kind, "mirrored": mirrored}
        if self.kind != FAMILY:
            return told | self.options
        dropped = self.options.get("dropped_weight", 0.0)
        return told | {
            "bandwidth": self.options["h"],
            "dropped_weight": dropped,
            "covariance_divisor": "statistics_of - 1",
        }


def is_exact(spec: str) -> bool:
    """Whether a name of a model is that of an exact denoiser."""
    return spec.startswith((EXACT, GAUSSIAN))


def exact_run(spec: str) -> Path:
    """The run whose images an exact denoiser is fitted to; errors as of ``ExactModel.parse``."""
    return Path(spec.removeprefix(GAUSSIAN)) if spec.startswith(GAUSSIAN) else ExactModel.parse(spec).run


def load_exact(spec: str, trust: bool = False) -> tuple[str, ProbeModel]:
    """An exact denoiser by its name, after that of its folder below ``RUN/probes``; errors as of ``ExactModel``."""
    if spec.startswith(GAUSSIAN):
        return GAUSSIAN.removesuffix(":"), fit_gaussian(exact_run(spec), trust=trust)
    exact = ExactModel.parse(spec)
    return exact.name, exact.load(trust)


def _split(text: str) -> tuple[Path, list[str]]:
    """The run and the parts after it: the longest beginning that is a run, else a folder, else before KEY=VALUE.

    Results may lie beside the run in a folder that has the whole name.
    """
    parts = text.split(",")
    beginnings = [Path(beginning).expanduser() for beginning in accumulate(parts, lambda left, part: f"{left},{part}")]
    folders = [index for index, path in enumerate(beginnings) if path.is_dir()]
    folders = [index for index in folders if (beginnings[index] / CONFIG).is_file()] or folders
    last = folders[-1] if folders else len(parts) - 1
    while not folders and last > 0 and _OPTION.fullmatch(parts[last]):
        last -= 1
    return beginnings[last], parts[last + 1 :]


def _read_options(spec: str, parts: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    known = list(dict.fromkeys([*_OF_ALL, *(name for names in KINDS.values() for name in names)]))
    for part in parts:
        match = _OPTION.fullmatch(part)
        if match is None or match[1] in options:
            how = " twice" if match else ""
            keys = ", ".join(known)
            raise ValueError(f"what follows RUN in {spec} must be ,KEY=VALUE with KEY among {keys}, got {part!r}{how}")
        options[match[1]] = _read_value(match[2])
    if isinstance(options.get("h"), int):
        options["h"] = float(options["h"])
    return options


def _read_value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text) + 0  # no -0.0
        except ValueError:
            continue
    return text


def _check_range(spec: str, key: str, value: Any, allowed: str, holds: Callable[[Any], bool]) -> None:
    if value is not None and (isinstance(value, str) or not holds(value)):
        raise ValueError(f"{key} must lie in {allowed}, got {value!r} in {spec}")
