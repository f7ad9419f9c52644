"""Find a model by what a user names: a run, a checkpoint, a published file, a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from probediff.models.base import ProbeModel
from probediff.models.published import load_published
from probediff.models.run import checkpoint_steps, load_checkpoint_model
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


def published_convention(model: ProbeModel) -> Convention:
    """The DDIM convention that the model's own code samples in."""
    return "diffusers" if model.conventions.get("source") == "diffusers" else "openai"
