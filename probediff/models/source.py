"""Find a model by what a user names: a run, a checkpoint, a published file, a pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from probediff.models.base import ProbeModel, Weights
from probediff.models.published import load_published
from probediff.models.run import load_checkpoint_model, run_of
from probediff.runs.folder import CHECKPOINTS, PROBED, RunFolder
from probediff.schedule import Convention, ScheduleName


@dataclass(frozen=True)
class ModelChoice:
    """Which model is meant.

    Args:
        model: run folder, checkpoint, state dict, or diffusers pipeline.
        checkpoints: of a run: all, last, or training steps such as 0,100,5000.
        weights: of a run: the averaged (ema) or the raw ones.
        ema_rate: which average; the first of the run by default.
        schedule: of a state dict: cosine or linear; that of the published network by default.
        num_train_timesteps: of a state dict: T; likewise.
        num_heads: of a state dict: attention heads; likewise.
    """

    model: str
    checkpoints: str = "last"
    weights: Weights = "ema"
    ema_rate: float | None = None
    schedule: ScheduleName | None = None
    num_train_timesteps: int | None = None
    num_heads: int | None = None


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


def find_source(choice: ModelChoice) -> Source:
    """Where the model that was chosen comes from.

    Raises:
        ImportError: a pipeline, and diffusers is not installed.
        FileNotFoundError: nothing of that name.
        ValueError: nothing that can be probed, or a checkpoint that the run does not keep.
    """
    path = Path(choice.model)
    load = partial(load_checkpoint_model, path, weights=choice.weights, ema_rate=choice.ema_rate)
    if (path / CHECKPOINTS).is_dir():
        return Source(_chosen_steps(choice, path), load, path, path / PROBED)
    if path.suffix == ".ckpt":
        model, run = load(), run_of(path)
        return Source([model.step], lambda step: model, run, run / PROBED)
    published = load_published(choice.model, choice.schedule, choice.num_train_timesteps, choice.num_heads)
    return Source([published.step], lambda step: published, None, Path(PROBED))


def _chosen_steps(choice: ModelChoice, run: Path) -> list[int]:
    stored = list(RunFolder(run).checkpoints())
    if not stored:
        raise ValueError(f"MODEL must be a run with checkpoints, got {run} whose folder checkpoints/ is empty")
    if choice.checkpoints == "all":
        return stored
    if choice.checkpoints == "last":
        return stored[-1:]
    try:
        steps = sorted({int(part) for part in choice.checkpoints.strip("[] ").split(",")})
    except ValueError:
        raise ValueError(
            f"--checkpoints must be all, last, or training steps with commas between, such as 0,100,5000, got "
            f"{choice.checkpoints!r}"
        ) from None
    if missing := [step for step in steps if step not in stored]:
        raise ValueError(f"--checkpoints must be among the stored ones, got {missing}; there are {stored}")
    return steps


def published_convention(model: ProbeModel) -> Convention:
    """The DDIM convention that the model's own code samples in."""
    return "diffusers" if model.conventions.get("source") == "diffusers" else "openai"
