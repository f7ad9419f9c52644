"""Sample, invert by each method, and sample again from the latent. MODEL is what `probediff probe`
takes. Clipping is off, because no method can invert a clipped step.

Examples:
  probediff inversions runs/digits/RUN --num_steps 20
  probediff inversions runs/digits/RUN --methods ddim fixed_point --set fixed_point.iterations=10
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from probediff.commands.options import CommandParser, WholeNumbers, device_of, pick
from probediff.commands.runner import run_command
from probediff.files import write_json
from probediff.inversion import InversionSettings, Method, MethodRow, Problem, compare
from probediff.models.base import undisturbed
from probediff.models.images import Space, images_of_folder
from probediff.models.source import ModelChoice, find_source, published_convention
from probediff.noise import seeded_noise
from probediff.runs.folder import INVERSION_METHODS, probed_folder
from probediff.runs.summary import format_table

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


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("inversions", "MODEL", __doc__)
    parser.add_argument("model", metavar="MODEL", help="run folder, checkpoint, state dict, or diffusers pipeline")
    parser.add_argument("--methods", nargs="+", choices=get_args(Method), help="which ones; all by default")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="METHOD.OPTION=VALUE",
        help="options of methods, such as fixed_point.iterations=10",
    )
    parser.add_argument(
        "--num_steps", type=WholeNumbers, default=WholeNumbers([50]), help="steps of sampling and of inversion"
    )
    parser.add_argument("--images", type=str | None, metavar="FOLDER", help="invert these images instead of samples")
    parser.add_model_options("RUN/probes/inversions")
    return parser


def settings_by_name(methods: list[Method], assignments: list[str]) -> dict[str, InversionSettings]:
    """The methods with their options.

    Raises:
        ValueError: an assignment that is none, or of an option that there is not.
    """
    settings: dict[str, InversionSettings] = {name: InversionSettings(method=name) for name in methods}
    known = [name for name in asdict(InversionSettings()) if name != "method"]
    for assignment in assignments:
        target, _, text = assignment.partition("=")
        method, _, option = target.partition(".")
        if method not in settings or option not in known or not text:
            raise ValueError(
                f"--set must be METHOD.OPTION=VALUE with a method of the table and one of {', '.join(known)}, "
                f"got {assignment!r}"
            )
        kind = type(getattr(settings[method], option))
        try:
            settings[method] = replace(settings[method], **{option: kind(text)})
        except ValueError:
            raise ValueError(f"--set {target} must be of type {kind.__name__}, got {text!r}") from None
    return settings


def inversions(arguments: list[str]) -> int:
    """``probediff inversions``: returns the exit status."""
    return run_command(build_parser(), arguments, _inversions)


def _inversions(options: Any) -> None:
    all_methods = [name for name in get_args(Method) if options.images is None or name != "swap"]
    methods = settings_by_name(options.methods or all_methods, options.set)
    source, settings = find_source(pick(ModelChoice, options)), options.settings
    model, device = source.load(source.steps[-1]), device_of(options)
    convention = settings.convention or published_convention(model)
    for num_steps in options.num_steps:
        model.schedule.ddim_timesteps(num_steps, convention)
    conventions = {"noise_seed": settings.noise_seed, "weights": settings.weights, "images": options.images}
    conventions |= {"convention": convention, "clip": False, "step": model.step} | model.conventions
    if options.images is None:
        start = seeded_noise(settings.noise_seed, range(settings.num_samples), model.image_shape)
    else:
        start = images_of_folder(Path(options.images), Space.of(model)).first(settings.num_samples)
    # States in float64, or rounding would hide how exact the exact methods are.
    start = start.to(device, torch.float64)
    x_T, images = (start, None) if options.images is None else (None, start)
    eps_model, dtype = model.eps_model.to(device), getattr(torch, model.conventions["dtype"])
    for num_steps in options.num_steps:
        problem = Problem(eps_model, model.schedule, num_steps, convention, False, False, network_dtype=dtype)
        with undisturbed(eps_model):
            rows = compare(problem, methods, x_T, range(len(start)), images, settings.batch_size, _show_time)
        path = probed_folder(Path(options.out or source.out / "inversions"), num_steps) / INVERSION_METHODS
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, [asdict(row) | {"num_steps": num_steps} | conventions for row in rows])
        _print_table(rows, path)


def _show_time(row: MethodRow) -> None:
    print(f"{row.name}: {row.inversion_seconds:.1f} s", file=sys.stderr)


def _print_table(rows: list[MethodRow], path: Path) -> None:
    table = format_table(list(_COLUMNS.values()), [[asdict(row)[key] for key in _COLUMNS] for row in rows])
    null = rows[0].null_top_10_correlation
    print(f"{table}\n\n{_LEGEND.format(null='-' if null is None else f'{null:.3f}')}\n\nThe table lies in {path}")
