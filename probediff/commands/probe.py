"""Run the probes of training on a model that is there already.

MODEL is a run folder of probediff fit (all its checkpoints, with the settings of the run), one of its checkpoints, an
exact denoiser of the run's images (exact:RUN,h=H with H from 0, the training set, to 1, its Gaussian), a state dict of
OpenAI's improved-diffusion or guided-diffusion (.pt, .safetensors), or a diffusers pipeline (folder or hub id). A
command that was interrupted goes on where it was when it is given again.

Examples:
  probediff probe runs/cifar10/RUN
  probediff probe exact:runs/cifar10/RUN,h=0.4 --num_steps 10,100
  probediff probe runs/cifar10/RUN --checkpoints last --num_steps 10,100,1000,4000
  probediff probe cifar10_uncond_50M_500K.pt --num_steps 100 --settings.num_samples 256
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from probediff.callbacks import CheckpointSimilarity
from probediff.commands.options import CommandParser, WholeNumbers, available_probes, join_processes, pick
from probediff.commands.outside_probes import foreign_probes
from probediff.commands.printing import print_once, quiet_libraries
from probediff.commands.runner import STATUS_LOST, run_guarded
from probediff.data import ImageDataModule
from probediff.models import ProbeModel, load_run_data
from probediff.models.arguments import typed_arguments
from probediff.models.exact import GAUSSIAN, exact_run, is_exact
from probediff.models.images import Space, images_of_folder
from probediff.models.run import flips_images, run_of
from probediff.models.source import ModelChoice, Source, find_source, published_convention
from probediff.probing.afterwards import ProbeTask, probe_afterwards
from probediff.probing.network_similarity import compare_with_network
from probediff.probing.probe import Probe, TrainingImages
from probediff.probing.processes import is_first_process
from probediff.probing.replay import compare_with_run
from probediff.probing.settings import PassSettings
from probediff.runs.configuration import CONFIG, refuse_secrets
from probediff.runs.folder import RunFolder, probed_folder
from probediff.runs.loggers import FailsafeWandbLogger
from probediff.runs.summary import describe_failures, probe_tables
from probediff.runs.wandb_settings import WandbSettings, from_environment


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed.

    Args:
        num_steps: DDIM steps, also several: 10,100,1000,4000 (There and Back Again, table 2).
        samples: Invert each checkpoint's own samples, or those of the final one (There and Back Again, figure 4).
        images: Invert the images of this folder instead of samples.
        denoiser: Probe the network, or the exact denoiser of Gaussian data fitted to the images of the run; others
            are a MODEL of their own, exact:RUN,h=H.
        reference: Folder of real images to compare with.
        progress: Show progress bars.
    """

    num_steps: WholeNumbers = WholeNumbers([100])  # noqa: RUF009 (immutable)
    samples: Literal["own", "final"] = "own"
    images: str | None = None
    denoiser: Literal["network", "gaussian"] = "network"
    reference: str | None = None
    progress: bool = True


def build_parser() -> CommandParser:
    """All options of the command."""
    # No resolver of ${...}: the configuration of a run, whose settings are the defaults, is data.
    parser = CommandParser("probe", "MODEL", __doc__, default_env=False)
    parser.add_class_arguments(ProbeOptions, as_group=True)
    parser.add_model_options("RUN/probes/<what>", PassSettings, skip={"num_steps"})
    parser.add_class_arguments(WandbSettings, "wandb")
    parser.set_defaults({"checkpoints": "all", "wandb.mode": "disabled"})
    for name, probe in available_probes().items():
        parser.add_class_arguments(probe, name)
    return parser


def probe(arguments: list[str]) -> int:
    """``probediff probe``: returns the exit status."""
    quiet_libraries()
    if not arguments or arguments[0] in ("-h", "--help"):
        build_parser().print_help()
        return 0 if arguments else 2
    return run_guarded("probediff probe", partial(_probe, arguments), "stopped; the same command goes on where it was")


def _probe(arguments: list[str]) -> int | None:
    parser, options, source = parse(arguments)
    device = join_processes(options)
    text = f"# probediff probe {' '.join(arguments)}\n" + parser.dump(options, skip_unset=False)
    refuse_secrets(text)
    objects = parser.instantiate(options)
    tasks = [replace(task, config_text=text) for task in build_tasks(source, objects)]
    if source.run is not None and not source.is_exact and options.checkpoints == "all":
        run = RunFolder(source.run)
        if gone := sorted(run.complete_steps() - set(run.checkpoints())):
            names = ", ".join(run.checkpoint_path(step).name for step in gone)
            print_once(f"left out, for the run keeps no such checkpoint: {names}")
    for task in tasks:
        _announce(task)
    enabled: list[Probe] = [objects[name] for name in available_probes() if objects[name].enabled]
    if source.run is not None:
        foreign = foreign_probes(source.run, available_probes(), options.trust)
        # As the run has them: of an installed probe the options that it has here are not those of the run.
        enabled = [p for p in enabled if p.name() not in [own.name() for own in foreign]] + foreign
    lost = [line for task in tasks for line in _run(task, source, enabled, objects, device)]
    for task in tasks:
        print_once(_summary(task, source))
    if lost:
        print_once(f"\nLOST, because it could not be written: {'; '.join(lost)}")
        return STATUS_LOST
    return None


def parse(arguments: list[str]) -> tuple[CommandParser, Any, Source]:
    """Options with the defaults that MODEL brings along, and what MODEL is."""
    model, rest = arguments[0], arguments[1:]
    if model.startswith("-"):
        raise ValueError(f"MODEL must come first, got {model!r}: probediff probe MODEL [--KEY VALUE ...]")
    parser = build_parser()
    run = exact_run(model) if is_exact(model) else run_of(Path(model)) if model.endswith(".ckpt") else Path(model)
    parser.set_defaults(_run_defaults(run, {action.dest for action in parser._actions}))
    options = parser.parse_args(rest)
    if is_exact(model) or options.denoiser == "gaussian":
        # It would be compared with itself, for the price of all exact denoisers.
        parser.set_defaults({"denoiser_structure.enabled": False})
        options = parser.parse_args(rest)
    source = find_source(_choice(model, run, options, rest))
    if source.run is None:
        parser.set_defaults(_model_defaults(source.load(0)))
        options = parser.parse_args(rest)
    if options.wandb.mode != "disabled":
        for key, value in from_environment(options.wandb).items():
            options.wandb[key] = value
    return parser, options, source


def _choice(model: str, run: Path, options: Any, typed: Sequence[str]) -> ModelChoice:
    """Which model is meant; raises ValueError for a baseline of what has no images."""
    is_run = RunFolder(run).config_path.is_file()
    if options.denoiser == "gaussian":
        if is_exact(model):
            raise ValueError(f"--denoiser must be left out for {model}, an exact denoiser by itself, got gaussian")
        if not is_run:
            raise ValueError("--denoiser gaussian needs the images of a run: give a run folder as MODEL")
        if options.checkpoints not in ("all", "last"):
            raise ValueError(f"--checkpoints must be left out for --denoiser gaussian, got {options.checkpoints}")
        return ModelChoice(f"{GAUSSIAN}{run}", trust=options.trust)
    # Of a run's network they are settings with defaults; elsewhere there is no choice, so that none may be typed.
    names = {a.partition("=")[0].removeprefix("--").removeprefix("settings.") for a in typed if a.startswith("--")}
    fixed = () if is_run and not is_exact(model) else {"weights", "ema_rate"} - names
    return pick(ModelChoice, options, model=model, **dict.fromkeys(fixed))


def _run_defaults(run: Path, options: Collection[str]) -> dict[str, Any]:
    """What the run's own configuration says of its probes: values of these options, of their types."""
    config = RunFolder(run).config()
    probing = config.get("probing")
    sections = {"settings": probing.get("settings") if isinstance(probing, dict) else probing}
    sections |= {name: config.get(name) for name in available_probes()}
    classes: dict[str, type] = {"settings": PassSettings, **available_probes()}
    defaults: dict[str, Any] = {}
    for section, values in sections.items():
        if isinstance(values, dict):
            known = [key for key in values if f"{section}.{key}" in options or key == "num_steps"]
            if unknown := [key for key in values if key not in known]:
                warnings.warn(f"{run / CONFIG}: {section}.{unknown[0]} is left out: no option of today", stacklevel=2)
            values = {key: values[key] for key in known}
        typed = typed_arguments(classes[section], values or {}, f"{section} of {run / CONFIG}")
        defaults |= {f"{section}.{key}": value for key, value in typed.items()}
    num_steps = defaults.pop("settings.num_steps", None)
    return defaults | ({} if num_steps is None else {"num_steps": WholeNumbers([num_steps])})


def _model_defaults(model: ProbeModel) -> dict[str, Any]:
    """How a published model was meant to be sampled."""
    convention = published_convention(model)
    return {"settings.convention": convention, "settings.clip": model.clip, "settings.clip_inversion": model.clip}


def build_tasks(source: Source, options: Any) -> list[ProbeTask]:
    """One task for each number of steps.

    Raises:
        ValueError: options that contradict each other.
    """
    steps, load, extra = source.steps, source.load, dict[str, Any]()
    kind = "" if source.run is None or source.is_exact else "replay"
    images, samples_of_step, num_samples = None, None, options.settings.num_samples
    if options.images is not None:
        if options.samples == "final":
            raise ValueError("--images and --samples final exclude each other: both say what is inverted")
        real = images_of_folder(Path(options.images), Space.of(load(steps[0])))
        images, extra = real.first(num_samples), dict(real.conventions)
        kind, num_samples = "images", len(images)
    elif options.samples == "final":
        if source.is_exact:
            raise ValueError("--samples must be own for an exact denoiser, which has no final checkpoint, got final")
        kind, samples_of_step = "final_samples", steps[-1]
        extra["samples_of_step"] = samples_of_step
    model, out = load(steps[0]), Path(options.out) if options.out else _default_out(source, kind)
    if options.reference is not None:
        reference = images_of_folder(Path(options.reference), Space.of(model)).conventions
        extra |= {key.replace("images", "reference"): value for key, value in reference.items()}
    real_images, training = _real_images(source, options.reference, model, options.trust)
    tasks = [
        ProbeTask(
            RunFolder(probed_folder(out, num_steps)),
            replace(options.settings, num_samples=num_samples, num_steps=num_steps),
            steps,
            load,
            images,
            samples_of_step,
            extra,
            real_images,
            training,
            # The options of a published state dict are typed by hand.
            checks_wiring=source.run is None and real_images is not None,
        )
        for num_steps in options.num_steps
    ]
    for task in tasks:
        task.settings.check(model.schedule, model.image_shape)
    return tasks


def _default_out(source: Source, kind: str) -> Path:
    """``RUN/probes/<kind>``, or, for an exact denoiser or a published model, ``<name>`` and ``<name>-images``."""
    if source.run is not None and not source.is_exact:
        return source.out / kind
    return source.out.with_name(f"{source.out.name}-{kind}" if kind else source.out.name)


def _real_images(
    source: Source, reference: str | None, model: ProbeModel, trust: bool = False
) -> tuple[Callable[[int], torch.Tensor] | None, TrainingImages | None]:
    """Real images of a folder that was named, or else of the run, with what is known of these as it trains on them.

    They are found once, when they are needed.
    """
    run = source.run
    if reference is None and run is None:
        return None, None

    @cache
    def data() -> ImageDataModule:
        if reference is None and run is not None:
            return load_run_data(run, trust)
        folder = images_of_folder(Path(str(reference)), Space(model.pixel_shape, model.pixel_shape)).folder
        assert folder is not None  # those of a folder have one
        return folder

    training = None
    if reference is None and run is not None:
        training = TrainingImages(flips_images(run), lambda count: data().held_out_images(count))
    return (lambda count: data().real_images(count)), training


def _announce(task: ProbeTask) -> None:
    per_image = sum(task.settings.inversion.evaluations(task.settings.num_steps))
    if there := sorted(task.folder.complete_steps() & set(task.steps)):
        print_once(f"{task.folder.path}: there already, of step {', '.join(map(str, there))}")
    left = len(task.steps) - len(there)
    evaluations = left * task.settings.num_samples * per_image
    print_once(
        f"{task.folder.path}: {left} checkpoint(s) x {task.settings.num_samples} images x up to "
        f"{per_image} network evaluations = {evaluations:,}"
    )


def _run(task: ProbeTask, source: Source, enabled: Sequence[Probe], options: Any, device: torch.device) -> list[str]:
    """Probe; returns what could not be kept."""
    loggers = [] if options.wandb.mode == "disabled" else [FailsafeWandbLogger(options.wandb, task.folder.path)]
    tracker = probe_afterwards(task, task.applicable(enabled), device, loggers, options.progress)
    similarity: CheckpointSimilarity = options.checkpoint_similarity
    if source.is_exact and source.run is not None and task.images is None and is_first_process():
        how = (similarity.compare, similarity.options(), loggers)
        why = "not compared with the run's final samples: --checkpoint_similarity.enabled true and another --out do it"
        if similarity.enabled:
            why = compare_with_network(task.folder, RunFolder(source.run), *how)
        if why:
            print_once(f"{task.folder.path}: {why}")
    for logger in loggers:
        logger.finalize("success")
    return [] if tracker is None else [f"{lost} in {task.folder.path}" for lost in tracker.lost_results()]


def _summary(task: ProbeTask, source: Source) -> str:
    lines = [f"\n{task.folder.path}", probe_tables(task.folder), *describe_failures(task.folder)]
    is_replay = task.images is None and task.samples_of_step is None and not source.is_exact
    if source.run is not None and is_replay:
        lines += compare_with_run(task.folder, source.run).in_words()
    return "\n".join(lines)
