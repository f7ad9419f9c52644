"""``probediff inversions``: one table of all inversion methods on one model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import torch

from probediff.commands.runner import run_command
from probediff.inversion import InversionSettings, Method, MethodRow, Problem, compare
from probediff.models import ProbeModel
from probediff.models.base import undisturbed
from probediff.models.images import folder_images
from probediff.models.source import find_source, published_convention
from probediff.noise import seeded_noise
from probediff.report.table import format_table

_COLUMNS = {
    "name": "method",
    "inversion_evaluations": "evaluations",
    "reconstruction_l2": "reconstruction",
    "noise_distance": "to noise",
    "angle_at_latent_deg": "angle",
    "latent_top_10_correlation": "correlation",
    "latent_std": "std",
    "latent_ks_distance": "KS",
    "inversion_seconds": "seconds",
}
_LEGEND = """evaluations: of the network, per image, to invert it; reconstruction: mean L2 distance of the image
sampled from the latent to the image; to noise: mean L2 distance of the latent to the true noise; angle: degrees at the
latent in the triangle of noise, image and latent; correlation: mean of the 10 largest between values of the latents
(white noise: {null}); std, KS: standard deviation and Kolmogorov-Smirnov distance to N(0, 1) of the latents' values."""


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = argparse.ArgumentParser(
        prog="probediff inversions",
        description="Sample, invert by each method, and sample again from the latent. MODEL is what `probediff probe` "
        "takes. Clipping is off, because no method can invert a clipped step.",
    )
    parser.add_argument("model", metavar="MODEL", help="run folder, checkpoint, state dict, or diffusers pipeline")
    parser.add_argument("--methods", nargs="+", choices=get_args(Method), help="which ones (all)", metavar="METHOD")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="METHOD.OPTION=VALUE",
        help="options of methods, such as fixed_point.iterations=10",
    )
    parser.add_argument("--num_samples", type=int, default=64, help="noises, or images at most (64)")
    parser.add_argument("--num_steps", type=int, default=50, help="steps of sampling and of inversion (50)")
    parser.add_argument("--convention", choices=("openai", "diffusers"), help="of DDIM; the model's own by default")
    parser.add_argument("--images", metavar="FOLDER", help="invert these images instead of samples")
    parser.add_argument("--checkpoints", default="last", help="of a run: last (default), or a training step")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights (default) or raw")
    parser.add_argument("--ema_rate", type=float, help="which average; the first by default")
    parser.add_argument("--noise_seed", type=int, default=420, help="seed of the noises (420)")
    parser.add_argument("--batch_size", type=int, default=64, help="images per network evaluation (64)")
    parser.add_argument("--schedule", choices=("cosine", "linear"), help="of a state dict")
    parser.add_argument("--num_train_timesteps", type=int, help="of a state dict: T")
    parser.add_argument("--num_heads", type=int, help="of a state dict: attention heads")
    parser.add_argument("--device", help="cuda, cuda:1 or cpu (cuda where there is one)")
    parser.add_argument("--out", metavar="DIR", help="folder of the table (RUN/probes/inversions)")
    return parser


def settings_by_name(methods: list[Method], assignments: list[str]) -> dict[str, InversionSettings]:
    """The methods with their options.

    Raises:
        ValueError: an assignment that is none, or of an option that there is not.
    """
    found: dict[str, InversionSettings] = {name: InversionSettings(method=name) for name in methods}
    for assignment in assignments:
        target, _, text = assignment.partition("=")
        method, _, option = target.partition(".")
        known = [name for name in asdict(InversionSettings()) if name != "method"]
        if method not in found or option not in known or not text:
            raise ValueError(
                f"--set must be METHOD.OPTION=VALUE with a method of the table and one of {', '.join(known)}, "
                f"got {assignment!r}"
            )
        current = getattr(found[method], option)
        try:
            value = type(current)(text)
        except ValueError:
            raise ValueError(f"--set {target} must be of type {type(current).__name__}, got {text!r}") from None
        found[method] = replace(found[method], **{option: value})
    return found


def inversions(arguments: list[str]) -> int:
    """``probediff inversions``: returns the exit status."""
    return run_command(build_parser(), arguments, _table)


def _table(options: Any) -> str:
    rows, path = _compared(options)
    table = format_table(list(_COLUMNS.values()), [[asdict(row)[key] for key in _COLUMNS] for row in rows])
    null = rows[0].null_top_10_correlation
    return f"{table}\n\n{_LEGEND.format(null='-' if null is None else f'{null:.3f}')}\n\nThe table lies in {path}"


def _compared(options: Any) -> tuple[list[MethodRow], Path]:
    options.settings = SimpleNamespace(weights=options.weights, ema_rate=options.ema_rate)
    all_methods = [name for name in get_args(Method) if options.images is None or name != "swap"]
    settings = settings_by_name(options.methods or all_methods, options.set)
    source = find_source(options.model, options)
    model = source.load(source.steps[-1])
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    eps_model = model.eps_model.to(device)
    dtype = getattr(torch, model.conventions["dtype"])
    convention = options.convention or published_convention(model)
    # States in float64, or rounding would hide how exact the exact methods are.
    problem = Problem(eps_model, model.schedule, options.num_steps, convention, False, False, network_dtype=dtype)
    images = None if options.images is None else folder_images(Path(options.images), model, options.num_samples)
    start = (
        seeded_noise(options.noise_seed, range(options.num_samples), model.image_shape) if images is None else images
    )
    start = start.to(device, torch.float64)
    given = {"x_T": start} if images is None else {"x_T": None, "images": start}
    with undisturbed(eps_model):
        rows = compare(
            problem, settings, indices=range(len(start)), batch_size=options.batch_size, on_row=_say, **given
        )
    out = Path(options.out) if options.out else source.out / "inversions"
    path = out / f"num_steps={options.num_steps:04d}" / "inversion_methods.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([_record(row, model, options, convention) for row in rows], indent=1), encoding="utf-8")
    return rows, path


def _say(row: MethodRow) -> None:
    print(f"{row.name}: {row.inversion_seconds:.1f} s", file=sys.stderr)


def _record(row: MethodRow, model: ProbeModel, options: Any, convention: str) -> dict[str, Any]:
    """A row with all that it depends on, flat."""
    made = {name: getattr(options, name) for name in ("num_steps", "noise_seed", "weights", "images")}
    return asdict(row) | made | {"convention": convention, "clip": False, "step": model.step} | model.conventions
