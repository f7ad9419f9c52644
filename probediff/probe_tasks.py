"""What ``probediff probe`` is asked for, as tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from callbacks import ProbeTask
from probediff.data import ImageDataModule, ImageFolder, ImageTensors
from probediff.models import (
    ProbeModel,
    checkpoint_steps,
    fit_gaussian,
    load_checkpoint_model,
    load_published,
    load_run_data,
)
from probediff.probing import PassSettings
from probediff.records import RunFolder
from probediff.schedule import Convention


@dataclass(frozen=True)
class Source:
    """What can be probed behind the argument MODEL.

    Attributes:
        steps: training steps of the checkpoints; ``[0]`` for a published model.
        load: step -> model.
        run: the run folder, if it is one's own.
        out: where results go by default.
    """

    steps: list[int]
    load: Callable[[int], ProbeModel]
    run: Path | None
    out: Path


def step_list(text: str) -> list[int]:
    """``10,100,1000`` (or ``[10, 100]``) as integers."""
    try:
        return [int(part) for part in str(text).strip("[] ").split(",")]
    except ValueError:
        raise ValueError(f"expected whole numbers with commas between, such as 10,100,1000, got {text!r}") from None


def find_source(model: str, options: Any) -> Source:
    """What MODEL is.

    Raises:
        ValueError: nothing that can be probed is there.
    """
    settings = options.settings
    path = Path(model)
    if (path / "checkpoints").is_dir():
        steps = checkpoint_steps(path)
        if not steps:
            raise ValueError(f"MODEL must be a run with checkpoints, got {path} whose folder checkpoints/ is empty")
        load = partial(load_checkpoint_model, path, weights=settings.weights, ema_rate=settings.ema_rate)
        return Source(_chosen_steps(options.checkpoints, steps), load, path, path / "probes")
    if path.suffix == ".ckpt":
        loaded = load_checkpoint_model(path, weights=settings.weights, ema_rate=settings.ema_rate)
        run = path.parents[1]
        return Source([loaded.step], lambda step: loaded, run, run / "probes")
    published = load_published(model, options.schedule, options.num_train_timesteps, options.num_heads)
    return Source([published.step], lambda step: published, None, Path("probes"))


def _chosen_steps(wanted: str, there: list[int]) -> list[int]:
    if wanted == "all":
        return there
    if wanted == "last":
        return there[-1:]
    steps = sorted(set(step_list(wanted)))
    missing = [step for step in steps if step not in there]
    if missing:
        raise ValueError(f"--checkpoints must be among the stored ones, got {missing}; there are {there}")
    return steps


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


def folder_images(path: Path, model: ProbeModel, most: int) -> torch.Tensor:
    """The first ``most`` images of a folder as the model wants them, (N, C, H, W)."""
    shape = model.image_shape
    if model.decode is not None:
        shape = tuple(model.decode(torch.zeros(1, *shape)).shape[1:])  # type: ignore[assignment]
    folder = ImageFolder(str(path), image_size=shape[-1], channels=shape[0])
    folder.setup()
    images = ImageTensors(folder.images).__getitems__(range(min(most, len(folder.images))))
    return images if model.encode is None else model.encode(images)


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


def published_convention(model: ProbeModel) -> Convention:
    """The DDIM convention that the model's own code samples in."""
    return "diffusers" if model.conventions.get("source") == "diffusers" else "openai"


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
