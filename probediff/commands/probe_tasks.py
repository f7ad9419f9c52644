"""What ``probediff probe`` is asked for, as tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from probediff.data import ImageDataModule, ImageFolder
from probediff.models import (
    ProbeModel,
    fit_gaussian,
    load_run_data,
)
from probediff.models.images import folder_images
from probediff.models.source import Source, step_list
from probediff.probing.afterwards import ProbeTask
from probediff.probing.settings import PassSettings
from probediff.runs.folder import RunFolder


@dataclass(frozen=True)
class _Subject:
    """What is inverted by whom: the part of a task that does not depend on the number of steps."""

    kind: str
    steps: list[int]
    load: Callable[[int], ProbeModel]
    images: torch.Tensor | None = None
    samples_of_step: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def _subject(source: Source, options: Any) -> _Subject:
    steps, load = source.steps, source.load
    kind = "replay" if source.run is not None else str(load(steps[0]).conventions["model"])
    if options.denoiser == "gaussian":
        if source.run is None:
            raise ValueError("--denoiser gaussian needs the images of a run: give a run folder as MODEL")
        fitted = fit_gaussian(source.run)
        kind, steps, load = "gaussian", [fitted.step], lambda step: fitted
    if options.images is not None:
        if options.samples == "final":
            raise ValueError("--images and --samples final exclude each other: both say what is inverted")
        images = folder_images(Path(options.images), load(steps[0]), options.settings.num_samples)
        name = "images" if source.run is not None else f"{kind}-images"
        return _Subject(name, steps, load, images, None, {"images": Path(options.images).name})
    if options.samples == "final":
        return _Subject("final_samples", steps, load, None, steps[-1], {"samples_of_step": steps[-1]})
    return _Subject(kind, steps, load)


def _real_images(source: Source, options: Any, model: ProbeModel) -> Callable[[int], torch.Tensor] | None:
    """Where real images come from: a folder that was named, or else the data of the run; read when they are needed."""
    if options.reference is None and source.run is None:
        return None

    def real_images(count: int) -> torch.Tensor:
        data: ImageDataModule
        if options.reference is None:
            assert source.run is not None
            data = load_run_data(source.run)
        else:
            data = ImageFolder(options.reference, image_size=model.image_shape[-1], channels=model.image_shape[0])
            data.setup()
        return data.real_images(count)

    return real_images


def build_tasks(source: Source, options: Any) -> list[ProbeTask]:
    """One task for each number of steps.

    Raises:
        ValueError: options that contradict each other.
    """
    subject = _subject(source, options)
    out = Path(options.out) if options.out else source.out / subject.kind
    count = options.settings.num_samples if subject.images is None else len(subject.images)
    model = subject.load(subject.steps[0])
    real_images = _real_images(source, options, model)
    tasks = [
        ProbeTask(
            RunFolder(out / f"num_steps={num_steps:04d}"),
            replace(options.settings, num_samples=count, num_steps=num_steps),
            subject.steps,
            subject.load,
            subject.images,
            subject.samples_of_step,
            subject.extra,
            real_images,
        )
        for num_steps in step_list(options.num_steps or str(PassSettings().num_steps))
    ]
    for task in tasks:
        task.settings.check(model.schedule)
    return tasks
