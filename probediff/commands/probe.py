"""``probediff probe``: the probes of training on any model, afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

from probediff.commands.cpu import set_up_cpu
from probediff.commands.fit import FitParser, available_probes, print_once, quiet_libraries
from probediff.commands.probe_tasks import build_tasks
from probediff.commands.runner import words_for
from probediff.models import ProbeModel
from probediff.models.source import Source, find_source, published_convention
from probediff.probing.afterwards import ProbeTask, probe_afterwards, same_numbers
from probediff.probing.probe import Probe
from probediff.probing.settings import PassSettings
from probediff.report.table import probe_tables
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings

_USAGE = "probediff probe MODEL [--KEY VALUE ...]"
_DESCRIPTION = """Run the probes of training on a model that is there already.

MODEL is a run folder of probediff fit (all its checkpoints, with the settings of the run), one of its checkpoints, a
state dict of OpenAI's improved-diffusion or guided-diffusion (.pt, .safetensors), or a diffusers pipeline (folder or
hub id). A command that was interrupted goes on where it was when it is given again."""


def build_parser() -> FitParser:
    """All options of the command."""
    parser = FitParser(
        prog="probediff probe", usage=_USAGE, description=_DESCRIPTION, parser_mode="omegaconf+", default_env=False
    )
    parser.add_argument("--out", type=str | None, default=None, help="Folder of the results (RUN/probes/<what>).")
    parser.add_argument(
        "--checkpoints", type=str, default="all", help="Of a run: all, last, or training steps such as 0,100,5000."
    )
    parser.add_argument(
        "--num_steps", type=str | None, default=None, help="DDIM steps, also several: 10,100,1000,4000 (P1, table 2)."
    )
    parser.add_argument(
        "--samples",
        type=Literal["own", "final"],
        default="own",
        help="Invert each checkpoint's own samples, or those of the final one (P1, figure 4).",
    )
    parser.add_argument(
        "--images", type=str | None, default=None, help="Invert the images of this folder instead of samples."
    )
    parser.add_argument(
        "--denoiser",
        type=Literal["network", "gaussian"],
        default="network",
        help="Probe the network, or the exact denoiser of Gaussian data fitted to the images of the run.",
    )
    parser.add_argument("--reference", type=str | None, default=None, help="Folder of real images to compare with.")
    parser.add_argument("--schedule", type=str | None, default=None, help="Of a state dict: cosine or linear.")
    parser.add_argument("--num_train_timesteps", type=int | None, default=None, help="Of a state dict: T.")
    parser.add_argument("--num_heads", type=int | None, default=None, help="Of a state dict: attention heads.")
    parser.add_argument(
        "--device", type=str | None, default=None, help="cuda, cuda:1 or cpu (cuda where there is one)."
    )
    parser.add_argument("--progress", type=bool, default=True, help="Show progress bars.")
    parser.add_class_arguments(PassSettings, "settings", skip={"num_steps"})
    parser.add_class_arguments(WandbSettings, "wandb")
    parser.set_defaults({"wandb.mode": "disabled"})
    for name, probe in available_probes().items():
        parser.add_class_arguments(probe, name)
    return parser


def _run_defaults(run: Path) -> dict[str, Any]:
    """What the run's own configuration says of its probes."""
    path = run / "config.yaml"
    if not path.exists():
        return {}
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = (config.get("probing") or {}).get("settings") or {}
    found = {name: config[name] for name in available_probes() if config.get(name)}
    flat = {f"settings.{key}": value for key, value in settings.items() if key != "num_steps"}
    flat |= {f"{name}.{key}": value for name, arguments in found.items() for key, value in arguments.items()}
    if "num_steps" in settings:
        flat["num_steps"] = str(settings["num_steps"])
    return flat


def _model_defaults(model: ProbeModel) -> dict[str, Any]:
    """How a published model was meant to be sampled."""
    convention = published_convention(model)
    return {"settings.convention": convention, "settings.clip": model.clip, "settings.clip_inversion": model.clip}


def parse(arguments: list[str]) -> tuple[FitParser, Any, Source]:
    """Options with the defaults that MODEL brings along, and what MODEL is."""
    model, rest = arguments[0], arguments[1:]
    if model.startswith("-"):
        raise ValueError(f"MODEL must come first, got {model!r}: {_USAGE}")
    parser = build_parser()
    run = Path(model).parents[1] if model.endswith(".ckpt") else Path(model)
    parser.set_defaults(_run_defaults(run))
    options = parser.parse_args(rest)
    source = find_source(model, options)
    if source.run is None:
        parser.set_defaults(_model_defaults(source.load(0)))
        options = parser.parse_args(rest)
    return parser, options, source


def probe(arguments: list[str]) -> int:
    """``probediff probe``: returns the exit status; an error that the user can cure is printed in one line."""
    quiet_libraries()
    if not arguments or arguments[0] in ("-h", "--help"):
        build_parser().print_help()
        return 0 if arguments else 2
    set_up_cpu()
    try:
        parser, options, source = parse(arguments)
        device = _join_processes(options.device)
        text = f"# probediff probe {' '.join(arguments)}\n" + parser.dump(options, skip_none=False)
        objects = parser.instantiate_classes(options)
        tasks = build_tasks(source, objects)
        _announce(tasks)
        enabled = [objects[name] for name in available_probes() if objects[name].enabled]
        for task in tasks:
            _run(task, enabled, objects, device, text)
    except KeyboardInterrupt:
        print_once("stopped; the same command goes on where it was")
        return 130
    except Exception as error:
        words = words_for(error, None)
        if words is None:
            raise
        print(f"probediff probe: error: {words}", file=sys.stderr)
        return 1
    for task in tasks:
        print_once(_summary(task, source))
    return 0


def _run(task: ProbeTask, enabled: Sequence[Probe], options: Any, device: torch.device, text: str) -> None:
    probes = task.applicable(enabled)
    if getattr(rank_zero_only, "rank", 0) == 0:
        task.folder.create().save_config(text)
    mode = options.wandb.mode
    loggers = [] if mode == "disabled" else [FailsafeWandbLogger(options.wandb, task.folder.path)]
    probe_afterwards(task, probes, device, loggers, options.progress)
    for logger in loggers:
        logger.finalize("success")


def _announce(tasks: list[ProbeTask]) -> None:
    for task in tasks:
        per_image = sum(task.settings.inversion.evaluations(task.settings.num_steps))
        evaluations = len(task.steps) * task.settings.num_samples * per_image
        print_once(
            f"{task.folder.path}: {len(task.steps)} checkpoint(s) x {task.settings.num_samples} images x up to "
            f"{per_image} network evaluations = {evaluations:,}"
        )


def _summary(task: ProbeTask, source: Source) -> str:
    lines = [f"\n{task.folder.path}", probe_tables(task.folder.records())]
    if source.run is not None:
        equal, compared = same_numbers(task, source.run)
        if compared:
            lines.append(f"{equal} of {compared} records have exactly the numbers that the run recorded")
    return "\n".join(lines)


def _join_processes(device: str | None) -> torch.device:
    """The device of this process; under ``torchrun`` all processes share the work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        local = int(os.environ["LOCAL_RANK"])
        backend, name = ("nccl", f"cuda:{local}") if torch.cuda.is_available() else ("gloo", "cpu")
        # The others wait while the first process measures.
        torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
        return torch.device(device or name)
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
