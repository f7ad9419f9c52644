"""Find a model by what a user names: a run, a checkpoint, an exact denoiser, a published file, a pipeline."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from probediff.models.base import ProbeModel, Weights
from probediff.models.exact import exact_run, is_exact, load_exact
from probediff.models.published import is_checkpoint_file, load_published
from probediff.models.run import load_checkpoint_model, run_of
from probediff.runs.folder import CHECKPOINTS, PROBED, RunFolder
from probediff.schedule import Convention, ScheduleName

#: Options of runs, and options of state dicts that are published models.
OF_RUNS = ("checkpoints", "weights", "ema_rate")
OF_STATE_DICTS = ("schedule", "num_train_timesteps", "num_heads", "image_size", "num_head_channels")


@dataclass(frozen=True)
class ModelChoice:
    """Which model is meant; an option that the model has no use for is refused.

    Args:
        model: run folder, checkpoint, exact denoiser of a run's images, state dict, or diffusers pipeline.
        checkpoints: of a run: all, last, or training steps such as 0,100,5000.
        weights: of a run: the averaged (ema) or the raw ones; ema by default.
        ema_rate: which average; the first of the run by default.
        schedule: of a state dict: cosine, linear or scaled_linear; needed unless a network of its architecture was
            published.
        num_train_timesteps: of a state dict: T; likewise.
        num_heads: of a state dict: attention heads; likewise.
        image_size: of a state dict: pixels; likewise.
        num_head_channels: of a state dict: channels a head, instead of num_heads.
        trust: whether classes of the run's network and data that are none of this package may be imported and run.
        among_others: whether the options are for other models too, so that each takes what it has a use for.
    """

    model: str
    checkpoints: str = "last"
    weights: Weights | None = None
    ema_rate: float | None = None
    schedule: ScheduleName | None = None
    num_train_timesteps: int | None = None
    num_heads: int | None = None
    image_size: int | None = None
    num_head_channels: int | None = None
    trust: bool = False
    among_others: bool = False

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Raise ValueError, with the reason, for the first of these options that was given without effect."""
        for name in () if self.among_others else names:
            value = getattr(self, name)
            if value is not None and (name != "checkpoints" or value not in ("all", "last")):
                raise ValueError(f"--{name} must be left out for {self.model}, {reason}, got {value!r}")


@dataclass(frozen=True)
class Source:
    """What can be probed behind the argument MODEL.

    Attributes:
        steps: training steps of the checkpoints; ``[0]`` for a published model or an exact denoiser.
        load: step -> model.
        run: the run folder, if it is one's own.
        out: where results go by default.
        is_exact: whether it is an exact denoiser of the run's images and no network of the run.
    """

    steps: list[int]
    load: Callable[[int], ProbeModel]
    run: Path | None
    out: Path
    is_exact: bool = False

    def load_only(self) -> ProbeModel:
        """The one model that is meant; raises ValueError where several checkpoints are."""
        if len(self.steps) > 1:
            raise ValueError(f"--checkpoints must be one here, got those of steps {self.steps}; give one of them")
        return self.load(self.steps[0])


def find_source(choice: ModelChoice) -> Source:
    """Where the model that was chosen comes from.

    Raises:
        ImportError: a pipeline, and diffusers is not installed.
        FileNotFoundError: nothing of that name.
        ValueError: nothing that can be probed, a checkpoint that the run does not keep, an exact denoiser that is
            none, or an option without effect.
    """
    if is_exact(choice.model):
        choice.refuse((*OF_RUNS, *OF_STATE_DICTS), "an exact denoiser, which has no network")
        run, (name, exact) = exact_run(choice.model), load_exact(choice.model, choice.trust)
        return Source([exact.step], lambda step: exact, run, run / PROBED / name, is_exact=True)
    path = Path(choice.model)
    if (path / CHECKPOINTS).is_dir() or path.suffix == ".ckpt":
        return _own_source(choice, path)
    choice.refuse(OF_RUNS, "a published model, whose weights are as published")
    options = {name: getattr(choice, name) for name in OF_STATE_DICTS}
    if choice.among_others and not is_checkpoint_file(path):
        options = {}
    published = load_published(choice.model, **options)
    return Source([published.step], lambda step: published, None, Path(PROBED) / str(published.conventions["model"]))


def _own_source(choice: ModelChoice, path: Path) -> Source:
    choice.refuse(OF_STATE_DICTS, "a run, whose configuration says it")
    if choice.weights == "raw":
        choice.refuse(["ema_rate"], "whose raw weights are no average")
    weights = choice.weights or "ema"

    def load(step: int | None = None) -> ProbeModel:
        model = load_checkpoint_model(path, step, weights, choice.ema_rate, choice.trust)
        return replace(model, conventions=model.conventions | {"weights": weights})

    if path.is_dir():
        return Source(_chosen_steps(choice, path), load, path, path / PROBED)
    choice.refuse(["checkpoints"], "which is one checkpoint")
    model, run = load(), run_of(path)
    return Source([model.step], lambda step: model, run, run / PROBED)


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
