"""Find noises that resemble images, without any model: only the whitening statistics of such images are
needed. `probediff vary` shows what models make of them. For a latent diffusion or text-to-image MODEL the search runs
in the space of its codes.

Examples:
  probediff search-noise images/cat.png --run runs/cifar10/RUN --ridge 1e-3
  probediff search-noise images --images ~/photographs --image_size 64 --save_statistics photographs.safetensors
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from torch import Tensor

from probediff.commands.editing import describe_statistics
from probediff.commands.options import CommandParser, check_at_least, device_of, pick
from probediff.commands.runner import run_command
from probediff.editing.grids import loss_curves, search_grid
from probediff.editing.models import EditableModel, Prompts, load_editable
from probediff.editing.noise_search import NoiseSearchSettings
from probediff.editing.noises import (
    FoundNoises,
    describe_search,
    distribution_checks,
    distribution_table,
    search_with_progress,
)
from probediff.models.base import conditions_of
from probediff.models.images import Space, digest_images, image_files, read_images
from probediff.models.source import OF_RUNS, OF_STATE_DICTS, ModelChoice
from probediff.prepare.decoding import DECODING
from probediff.runs.kept_results import lock_results, show_result, write_result
from probediff.runs.lock import claim
from probediff.runs.summary import format_table
from probediff.whitening.statistics import StatisticsSource

RESULT, NOISES, GRID, CURVES = "search_noise.json", "noises.safetensors", "noises.png", "loss.png"


@dataclass(frozen=True)
class SearchOptions:
    """What the noises are for.

    Args:
        model: model whose size, or whose codes, the noises are for.
        channels: of --images without --model, 3 by default; their size is --image_size.
        num_shown: images in pictures.
    """

    model: str | None = None
    channels: Literal[1, 3] | None = None
    num_shown: int = 8


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("search-noise", "IMAGE ...", __doc__)
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    for options in (SearchOptions, StatisticsSource, NoiseSearchSettings):
        # --trust is an option of all models and runs.
        parser.add_class_arguments(options, as_group=True, skip={"trust"} if options is StatisticsSource else set())
    parser.set_defaults(num_chains=4)
    parser.add_model_options("probes/search_noise", skip={"num_samples", "convention", "noise_seed", "batch_size"})
    return parser


def search_noise(arguments: Sequence[str]) -> int:
    """``probediff search-noise``: returns the exit status."""
    return run_command(build_parser(), arguments, _search, "stopped; nothing was kept, start it again")


def _search(options: Any) -> None:
    check_at_least(options, num_shown=1, image_size=1)
    source, settings, device = pick(StatisticsSource, options), pick(NoiseSearchSettings, options), device_of(options)
    source.check()
    files = image_files(options.image)
    if options.model is None:
        _refuse_options_of_models(options)
        model, space = None, source.space(options.image_size, options.channels)
    else:
        if options.channels is not None:
            raise ValueError(f"--channels must be left out for a --model, which has its own, got {options.channels}")
        # There is nothing to guide: the model's codes are wanted, and no image.
        model = load_editable(pick(ModelChoice, options), Prompts(guidance_scale=1.0)).to(device)
        space = Space.of(model.probe)
    images = read_images(files, space.pixel_shape)
    settings.check(len(images), space.shape)
    statistics, out = describe_statistics(options, space, model), Path(options.out or "probes/search_noise")
    conventions = {
        **describe_search(settings, statistics.origin, device),
        **_describe_targets(images, space, model),
        **conditions_of(device),
    }
    with claim(out, "--out"):
        if show_result(out / RESULT, conventions, partial(_in_words, out)):
            return
        whitening, conventions["statistics"] = statistics.load()
        search = search_with_progress(space.codes(images).to(device).float(), whitening, settings)
        noises = FoundNoises(images, search, [path.stem for path in files], conventions)
        record = _record(noises)
        _write(out, noises, record, space.pixels(whitening.dewhiten(noises.noise[: options.num_shown, 0])))
    print(_in_words(out, record))


def _refuse_options_of_models(options: Any) -> None:
    none, given = ModelChoice(""), pick(ModelChoice, options, model="", image_size=None)
    for name in (*OF_RUNS, *OF_STATE_DICTS):
        if getattr(given, name) != getattr(none, name):
            raise ValueError(f"--{name} needs --model, got {getattr(given, name)!r} without one")


def _describe_targets(images: Tensor, space: Space, model: EditableModel | None) -> dict[str, Any]:
    """What the codes of the images depend on; without a model they are the pixels."""
    targets = {"images_sha256": digest_images(images), "decoding": dict(DECODING), "shape": list(space.shape)}
    if model is None:
        return targets | {"weights_sha256": None}
    return targets | {"codes_of": model.name, "weights_sha256": model.probe.digest, "step": model.probe.step}


def _record(noises: FoundNoises) -> dict[str, Any]:
    columns = {name: getattr(noises.search, name).tolist() for name in ("initial_loss", "loss", "accept_rate")}
    images = [
        {"image": name} | {column: values[k] for column, values in columns.items()}
        for k, name in enumerate(noises.names)
    ]
    return {"conventions": noises.conventions, "checks": distribution_checks(noises.noise), "images": images}


def _write(out: Path, noises: FoundNoises, record: dict[str, Any], dewhitened: Tensor) -> None:
    search = noises.search
    with lock_results(out):
        noises.save(out / NOISES)
        search_grid(noises.images, noises.noise, dewhitened, noises.names).save(out / GRID)
        curves = loss_curves(search.curve_iterations, search.curve, noises.names, noises.conventions["loss"])
        curves.savefig(out / CURVES, dpi=120)
        write_result(out / RESULT, record, [NOISES, GRID, CURVES])


def _in_words(out: Path, record: dict[str, Any]) -> str:
    columns = ("initial_loss", "loss", "accept_rate")
    rows = [[image["image"], *(fmean(image[name]) for name in columns)] for image in record["images"]]
    table = format_table(["image", "initial loss", "loss", "accept rate"], rows)
    return f"{table}\n\n{distribution_table(record['checks'])}\n\nEverything lies in {out}"
