"""Sample, invert by each method, and sample again from the latent. MODEL is what `probediff probe`
takes. Clipping is off, because no method can invert a clipped step.

Examples:
  probediff inversions runs/digits/RUN --num_steps 20
  probediff inversions exact:runs/digits/RUN,h=0.3 --num_steps 20
  probediff inversions runs/digits/RUN --methods ddim fixed_point --set fixed_point.iterations=10
"""

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch

from probediff.commands.options import MODEL_HELP, CommandParser, WholeNumbers, check_at_least, device_of, pick
from probediff.commands.runner import run_command
from probediff.files import write_json
from probediff.files.capacity import EVALUATION_SEC, check_memory, check_time
from probediff.inversion import InversionSettings, Method, MethodRow, Problem, compare
from probediff.inversion.compare import options_of
from probediff.models.base import ProbeModel, conditions_of, undisturbed
from probediff.models.images import RealImages, Space, images_of_folder
from probediff.models.source import ModelChoice, find_source, published_convention
from probediff.noise import seeded_noise
from probediff.runs.folder import INVERSION_METHODS, probed_folder
from probediff.runs.kept_results import check_same_settings, explain_damage, lock_results, read_result
from probediff.runs.lock import claim
from probediff.runs.summary import format_table
from probediff.schedule import Convention

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
_ORDER = get_args(Method)
#: What is no convention in a row.
_FIGURES = frozenset(field.name for field in fields(MethodRow))
_LEGEND = """evaluations: of the network, per image, to invert it; reconstruction: mean L2 distance of the image
sampled from the latent to the image; to noise: mean L2 distance of the latent to the true noise; angle: degrees at the
latent in the triangle of noise, image and latent; correlation: mean of the 10 largest between values of the latents
(white noise: {null}); std, KS: standard deviation and Kolmogorov-Smirnov distance to N(0, 1) of the latents' values."""


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("inversions", "MODEL", __doc__)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
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
        ValueError: an assignment that is none, or of an option that the method does not have.
    """
    settings: dict[str, InversionSettings] = {name: InversionSettings(method=name) for name in methods}
    for assignment in assignments:
        target, _, text = assignment.partition("=")
        method, _, option = target.partition(".")
        if method not in settings or not option or not text:
            raise ValueError(
                f"--set must be METHOD.OPTION=VALUE with one of the methods {', '.join(settings)}, got {assignment!r}"
            )
        if option not in options_of(settings[method]):
            known = ", ".join(options_of(settings[method])) or "none"
            raise ValueError(f"--set {method}.OPTION must be an option of {method} ({known}), got {option!r}")
        kind = type(getattr(settings[method], option))
        try:
            settings[method] = replace(settings[method], **{option: kind(text)})
        except ValueError:
            raise ValueError(f"--set {target} must be of type {kind.__name__}, got {text!r}") from None
    return settings


def inversions(arguments: list[str]) -> int:
    """``probediff inversions``: returns the exit status."""
    stopped = "stopped; the same command goes on with the methods that are missing"
    return run_command(build_parser(), arguments, _inversions, stopped)


def _inversions(options: Any) -> None:
    check_at_least(options, num_samples=1, batch_size=1, noise_seed=0)
    all_methods = [name for name in get_args(Method) if options.images is None or name != "swap"]
    methods = settings_by_name(options.methods or all_methods, options.set)
    source, settings = find_source(pick(ModelChoice, options)), options.settings
    model, device = source.load_only(), device_of(options)
    convention = settings.convention or published_convention(model)
    for num_steps in options.num_steps:
        model.schedule.ddim_timesteps(num_steps, convention)
        for method in methods.values():
            method.check(num_steps)
            evaluations = settings.num_samples * sum(method.evaluations(num_steps))
            check_time(f"--set {method.method}", f"{evaluations:,} network evaluations", evaluations * EVALUATION_SEC)
    if options.images is None:
        # Noises, samples and latents in float64.
        size = 3 * 8 * settings.num_samples * math.prod(model.image_shape)
        check_memory("--num_samples", settings.num_samples, size, "lower it")
    images = None if options.images is None else images_of_folder(Path(options.images), Space.of(model))
    conditions = conditions_of(device) | {"batch_size": settings.batch_size}
    conventions = _conventions(model, images, settings, convention) | conditions
    out = Path(options.out or source.out / "inversions")
    with claim(out, "--out"):
        tables = [
            Table(probed_folder(out, num_steps), num_steps, methods, conventions)
            for num_steps in dict.fromkeys(options.num_steps)
        ]
        if any(table.missing for table in tables):
            # States in float64, or rounding would hide how exact the exact methods are.
            start = _start(model, images, settings).to(device, torch.float64)
            model.eps_model.to(device)
        for table in tables:
            if table.missing:
                problem = Problem(
                    *(model.eps_model, model.schedule, table.num_steps, convention, False, False),
                    network_dtype=getattr(torch, model.conventions["dtype"]),
                )
                x_T, x_0 = (start, None) if images is None else (None, start)
                with undisturbed(model.eps_model):
                    compare(problem, table.missing, x_T, range(len(start)), x_0, settings.batch_size, table.add)
            print(table)


def _conventions(model: ProbeModel, images: RealImages | None, settings: Any, convention: Convention) -> dict[str, Any]:
    """What all methods depend on."""
    return {
        **{"noise_seed": settings.noise_seed, "num_samples": settings.num_samples, "state_dtype": "float64"},
        **{"convention": convention, "clip": False, "step": model.step},
        **({"images": None, "images_sha256": None} if images is None else images.conventions),
        **model.conventions,
        "weights_sha256": model.digest,
    }


def _start(model: ProbeModel, images: RealImages | None, settings: Any) -> torch.Tensor:
    """Noises to sample from, or images to invert."""
    if images is None:
        return seeded_noise(settings.noise_seed, range(settings.num_samples), model.image_shape)
    return images.first(settings.num_samples)


class Table:
    """The file with a row for each method, to which the methods that are missing are added.

    Args:
        folder: where it lies; it may be there already.
        num_steps: of sampling and of inversion.
        methods: the methods that are asked for.
        conventions: what all of them depend on, and the conditions.

    Raises:
        ValueError: the file is damaged, or its rows have other settings.
    """

    def __init__(
        self, folder: Path, num_steps: int, methods: Mapping[str, InversionSettings], conventions: Mapping[str, Any]
    ) -> None:
        self.num_steps = num_steps
        self._path = folder / INVERSION_METHODS
        self._methods = methods
        self._conventions = {"num_steps": num_steps, **conventions}
        self._notes: list[str] = []
        self._rows: list[dict[str, Any]] = read_result(self._path, list) or []
        with explain_damage(self._path):
            kept = [row["name"] for row in self._rows if row["name"] in methods]
            settings = [self._settings_of(row) for row in self._rows]
            self._words()
        for there, wanted in settings:
            notes = check_same_settings(self._path, there, wanted)
            self._notes += [note for note in notes if note not in self._notes]
        if kept:
            self._notes.insert(0, f"Kept, as there already: {', '.join(kept)}")
        self.missing = {name: method for name, method in methods.items() if name not in kept}

    def _settings_of(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all rows share, there and now, and the options of a method that is asked for."""
        _ORDER.index(row["name"])
        there = {key: value for key, value in row.items() if key not in _FIGURES}
        options, asked = there.pop("options", None), self._methods.get(row["name"])
        if asked is None:
            return there, self._conventions
        return there | {row["name"]: options}, self._conventions | {row["name"]: options_of(asked)}

    def add(self, row: MethodRow) -> None:
        """Write a row that is ready."""
        print(f"{row.name}: {row.inversion_seconds:.1f} s", file=sys.stderr)
        if not all(map(math.isfinite, row.values().values())):
            warnings.warn(f"{row.name} led to infinities or NaN: it diverges, or the weights hold such", stacklevel=2)
        options = options_of(self._methods[row.name])
        rows = [*self._rows, asdict(row) | {"options": options} | self._conventions]
        self._rows = sorted(rows, key=lambda row: _ORDER.index(row["name"]))
        with lock_results(self._path.parent):
            write_json(self._path, self._rows)

    def __str__(self) -> str:
        """All rows, for people."""
        return "\n".join([self._words(), "", f"The table lies in {self._path}", *self._notes])

    def _words(self) -> str:
        null = self._rows[0]["null_top_10_correlation"] if self._rows else None
        table = format_table(list(_COLUMNS.values()), [[row[key] for key in _COLUMNS] for row in self._rows])
        return f"{table}\n\n{_LEGEND.format(null='-' if null is None else f'{null:.3f}')}"
