"""Is the first step of a model a de-whitening, as *First-step inference* (P2) says?

The noises that P2's iteration finds for images, against ZCA and other whitenings of them, after several numbers of
iterations, beside the Gaussian denoiser of the same data. MODEL is what `probediff probe` takes, exact denoisers
(exact:RUN,h=H) included. The same command goes on where it was stopped.

Examples:
  probediff whitening runs/cifar10/RUN
  probediff whitening runs/cifar10/RUN --denoiser gaussian --num_steps 10,100,1000
  probediff whitening exact:runs/cifar10/RUN,h=0.3
  probediff whitening MODEL --reference ~/images --num_fixed_points 4000 --ridge 1e-4
"""

import math
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from probediff.commands.options import MODEL_HELP, CommandParser, WholeNumbers, check_at_least, device_of, pick
from probediff.commands.runner import run_command
from probediff.display.progress import progress_bar
from probediff.files import save_tensors
from probediff.files.capacity import EVALUATION_SEC, check_memory, check_time
from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from probediff.models import ProbeModel
from probediff.models.base import conditions_of, undisturbed
from probediff.models.exact import is_exact
from probediff.models.images import RealImages, Space, images_of_folder, run_images
from probediff.models.source import ModelChoice, Source, find_source, published_convention
from probediff.runs.batches import PartialPass
from probediff.runs.folder import WHITENING, WHITENING_ARRAYS
from probediff.runs.kept_results import lock_results, show_result, write_result
from probediff.runs.lock import claim
from probediff.runs.summary import format_table
from probediff.schedule import Convention
from probediff.whitening.analysis import Findings, Plan, analyse, slope_in_words
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.pairs import NetworkNoises

_CURVE = {
    "slope": "slope",
    "slope_unweighted": "unweighted",
    "significant_share": "known",
    "zca_r2": "zca",
    "noise_rms": "rms",
    "zca_r2_scaled": "zca*",
    "inverse_r2_scaled": "inverse*",
    "image_r2_scaled": "image*",
}
_TRANSFORM = ("name", "mse", "r2", "r2_scaled", "spectral", "frobenius", "cosine")
_LEGEND = """slope: of log gain against log eigenvalue, each direction weighted by how well its gain is known, and
unweighted; ZCA whitening has -1/2, but so have noises unrelated to the images. known: share of the directions whose
gain is 3 standard errors above zero, without which a slope says nothing. zca: R² of the noises against S^-1/2 x, as P2
has it, for which their size matters too; rms: of the noises, 1 for N(0, I). zca*, inverse*, image*: R² against
S^-1/2 x, S^-1 x and x, each with the best scale, which judges the shape alone. G: the Gaussian denoiser of the same
data, its slope with the same weights."""

#: Of the conventions, beside those of the model; other numbers of steps or samples find the fixed points again that
#: were made already. Those of another device, or of rounded products, would be mixed with the new ones.
_FIXED_POINTS_DEPEND_ON = (
    *("weights_sha256", "images_sha256", "decoding", "num_fixed_points", "timestep", "counts", "tolerance", "start"),
    *("noise_seed", "device", "tf32"),
)


@dataclass(frozen=True, eq=False)
class _Work:
    """What the command works with."""

    model: ProbeModel
    statistics: RealImages
    images: RealImages
    convention: Convention
    plan: Plan
    device: torch.device
    out: Path


@dataclass(frozen=True)
class WhiteningOptions:
    """The analysis.

    Args:
        reference: folder of images for the covariance; those of the run by default.
        images: folder of images whose noises are made; those for the covariance by default.
        num_images: images for the covariance; all by default.
        num_fixed_points: images whose noises are made; by default twice as many as an image has values.
        denoiser: the network with the Gaussian denoiser beside it, or the Gaussian denoiser alone.
        timestep: of the iteration, as a share of T.
        iterations: numbers of iterations.
        start: of the iteration, zero or white noise.
        tolerance: an image is finished at a change below this; 0 for never.
        ridge: share of the mean variance that is added to every pixel's.
        num_steps: steps of the full DDIM map, also several.
        num_shown: images in pictures.
    """

    reference: str | None = None
    images: str | None = None
    num_images: int | None = None
    num_fixed_points: int | None = None
    denoiser: Literal["network", "gaussian"] = "network"
    timestep: float = 0.98
    iterations: WholeNumbers = WholeNumbers([1, 3, 10, 30, 100, 300, 1000])  # noqa: RUF009 (immutable)
    start: Literal["zero", "noise"] = "zero"
    tolerance: float = 0.0
    ridge: float = 0.0
    num_steps: WholeNumbers = WholeNumbers([100])  # noqa: RUF009 (immutable)
    num_shown: int = 8


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("whitening", "MODEL", __doc__)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    shown = [0.2, 0.4, 0.6, 0.8, 0.9, 0.98]
    parser.add_argument("--shown_timesteps", type=float, nargs="+", default=shown, help="of figure 3, as shares of T")
    parser.add_class_arguments(WhiteningOptions, as_group=True)
    parser.add_model_options("RUN/probes/whitening")
    parser.set_defaults({"settings.num_samples": 1000})
    return parser


def whitening(arguments: list[str]) -> int:
    """``probediff whitening``: returns the exit status."""
    stopped = "stopped; the same command goes on with the fixed points that are finished"
    return run_command(build_parser(), arguments, _whitening, stopped)


def _whitening(options: Any) -> None:
    work = _prepare(options)
    conventions, describe = _conventions(work, options), partial(_in_words, work.out)
    with claim(work.out, "--out"):
        if show_result(work.out / WHITENING, conventions, describe):
            return
        names = (*work.model.conventions, *_FIXED_POINTS_DEPEND_ON)
        store = PartialPass(work.out / "partial", {name: conventions.get(name) for name in names})
        findings = _analyse(work, options, store)
        record = {"conventions": conventions, **findings.record()}
        record["in_words"] = slope_in_words(record["first_step"], options.timestep)
        _write(work.out, findings, record)
        store.clear()
    print(describe(record))


def _prepare(options: Any) -> _Work:
    """Read and check everything that can be wrong, before the first network evaluation."""
    if options.denoiser == "gaussian" and is_exact(options.model):
        raise ValueError(f"--denoiser must be left out for {options.model}, an exact denoiser by itself, got gaussian")
    source = find_source(pick(ModelChoice, options))
    model = source.load_only()
    convention = options.settings.convention or published_convention(model)
    plan = _plan(options, model)
    for num_steps in plan.num_steps:
        model.schedule.ddim_timesteps(num_steps, convention)
    statistics, images = _images(options, source, model)
    size = math.prod(model.image_shape)
    count = len(statistics) if options.num_images is None else min(options.num_images, len(statistics))
    num_pairs = min(options.num_fixed_points or 2 * size, len(images))
    _check_enough(options.ridge, size, num_images=count * (1 + statistics.mirrored), num_fixed_points=num_pairs)
    options.num_images, options.num_fixed_points = count, num_pairs
    evaluations = plan.evaluations(num_pairs)
    check_time("--iterations", f"{evaluations:,} network evaluations", evaluations * EVALUATION_SEC)
    name = "whitening" if options.denoiser == "network" else "whitening_gaussian"
    out = Path(options.out or source.out / name)
    return _Work(model, statistics, images, convention, plan, device_of(options), out)


def _plan(options: Any, model: ProbeModel) -> Plan:
    counts, settings = sorted(set(options.iterations)), options.settings
    check_at_least(options, num_samples=3, num_shown=1, num_images=1, num_fixed_points=1, batch_size=1, noise_seed=0)
    if counts[0] < 1:
        raise ValueError(f"--iterations must be at least 1, got {counts[0]}")
    if not 0 <= options.tolerance < math.inf:
        raise ValueError(f"--tolerance must be 0 or more, got {options.tolerance}; 0 makes all iterations")
    shares = [options.timestep, *options.shown_timesteps]
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise ValueError(f"timesteps must be shares of T above 0 and at most 1, got {wrong[0]}; P2 uses 0.98")
    timestep, *shown = (min(round(share * len(model.schedule)), len(model.schedule) - 1) for share in shares)
    num_steps = sorted(set(options.num_steps))
    check_memory(
        "--num_samples", settings.num_samples, 8 * settings.num_samples * math.prod(model.image_shape), "lower it"
    )
    return Plan(counts, timestep, shown, num_steps, settings.num_samples, options.num_shown, settings.noise_seed)


def _images(options: Any, source: Source, model: ProbeModel) -> tuple[RealImages, RealImages]:
    """Images for the statistics, and those whose noises are made."""
    images = None if options.images is None else images_of_folder(Path(options.images), Space.of(model))
    if options.reference is not None:
        statistics = images_of_folder(Path(options.reference), Space.of(model))
    elif source.run is not None:
        statistics = run_images(source.run, options.trust)
    elif images is not None:
        statistics = images
    else:
        raise ValueError("whitening needs real images, got a MODEL without a data set; give --reference FOLDER")
    return statistics, images or statistics


def _check_enough(ridge: float, size: int, **counts: int) -> None:
    for name, count in counts.items():
        if count <= size and ridge == 0:
            raise ValueError(
                f"--{name} must be more than the {size} values of an image, got {count}: their covariance has no "
                f"inverse; use more images, or --ridge 1e-4"
            )
        if count < 3:
            raise ValueError(f"--{name} must be at least 3, got {count}; use more images")


def _analyse(work: _Work, options: Any, store: PartialPass) -> Findings:
    print(f"statistics of {options.num_images} images", file=sys.stderr)
    reference = moments(work.statistics.with_mirrors(options.num_images))
    statistics = WhiteningTransform.from_covariance(reference.mean, reference.covariance, options.ridge)
    gaussian = GaussianNoises(statistics, work.model.schedule, work.convention)
    images = work.images.take(options.num_fixed_points)
    if options.denoiser == "gaussian":
        return analyse(None, gaussian, images, work.plan, say=partial(print, file=sys.stderr))
    total = work.plan.evaluations(len(images))
    eps_model = work.model.eps_model.to(work.device)
    print(f"{total:,} network evaluations", file=sys.stderr)
    with (
        undisturbed(eps_model),
        progress_bar(total=total, unit="evaluation", unit_scale=True, miniters=1, mininterval=1) as bar,
    ):
        network = NetworkNoises(
            work.model,
            work.convention,
            options.tolerance,
            options.settings.batch_size,
            options.settings.noise_seed if options.start == "noise" else None,
            on_evaluations=bar.update,
        )
        return analyse(network, gaussian, images, work.plan, store, bar.set_description)


def _conventions(work: _Work, options: Any) -> dict[str, Any]:
    """All that the numbers depend on."""
    names = ("num_images", "num_fixed_points", "tolerance", "ridge", "denoiser")
    return {
        **{name: options[name] for name in names},
        "timestep_share": options.timestep,
        "shown_timestep_shares": list(options.shown_timesteps),
        **{key: list(value) if isinstance(value, list) else value for key, value in asdict(work.plan).items()},
        "statistics": work.statistics.name,
        "mirrored": work.statistics.mirrored,
        **{f"statistics_{key}": value for key, value in work.statistics.conventions.items()},
        **work.images.conventions,
        "start": options.start,
        "alpha_bar": float(work.model.schedule.alpha_bar[work.plan.timestep]),
        "convention": work.convention,
        "clip": work.model.clip,
        "clip_inversion": False,
        "step": work.model.step,
        **work.model.conventions,
        "weights_sha256": work.model.digest,
        **conditions_of(work.device),
        "batch_size": options.settings.batch_size,
    }


def _write(out: Path, findings: Findings, record: dict[str, Any]) -> None:
    pictures, arrays = findings.pictures(), findings.arrays()
    with lock_results(out):
        for name, pixels in pictures.items():
            Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(out / f"{name}.png")
        save_tensors(out / WHITENING_ARRAYS, arrays)
        # Last, because a report takes this file as the sign that the others are there.
        write_result(out / WHITENING, record, [WHITENING_ARRAYS, *(f"{name}.png" for name in pictures)])


def _in_words(out: Path, values: dict[str, Any]) -> str:
    share = values["conventions"]["timestep_share"]
    parts = [f"First-step map at {share:g} T", _curve_table(values["first_step"], "iterations")]
    parts += ["\nFull map (DDIM inversion)", _curve_table(values["full_map"], "num_steps"), f"\n{_LEGEND}"]
    rows = [[row.get(key) for key in _TRANSFORM] for row in values["transforms"]]
    parts += ["\nThe noises against W x, and W against W_diff", format_table(list(_TRANSFORM), rows)]
    relation = values["relation"]
    parts.append(
        f"\nNoise and sample: mean L2 distance {relation['paired_l2']:.2f} (random pairs {relation['random_l2']:.2f}), "
        f"Pearson {relation['paired_pearson']:.3f} ({relation['random_pearson']:.3f})."
    )
    return "\n".join([*parts, f"\n{values['in_words']}", f"\nEverything lies in {out}"])


def _curve_table(rows: list[dict[str, Any]], count: str) -> str:
    header = [count, *_CURVE.values(), *(f"G {name}" for name in _CURVE.values())]
    cells = [[row[count], *(row[who][key] for who in ("model", "gaussian") for key in _CURVE)] for row in rows]
    return format_table(header, cells)
