"""Find noises that resemble images, without any model: only the whitening statistics of such images are
needed. `probediff vary` shows what models make of them. For a latent diffusion or text-to-image MODEL the search runs
in the space of its codes.

Examples:
  probediff search-noise images/cat.png --run runs/cifar10/RUN --ridge 1e-3
  probediff search-noise images --images ~/photographs --image_size 64 --save_statistics photographs.safetensors
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from probediff.commands.options import CommandParser, check_at_least, device_of, pick
from probediff.commands.runner import run_command
from probediff.editing.grids import loss_curves, search_grid
from probediff.editing.models import Prompts, load_editable
from probediff.editing.noise_search import NoiseSearchSettings
from probediff.editing.noises import FoundNoises, distribution_checks, distribution_table, search_with_progress
from probediff.files import write_json
from probediff.models.images import Space, image_files, read_images
from probediff.models.source import ModelChoice
from probediff.runs.summary import format_table
from probediff.whitening.statistics import StatisticsSource


@dataclass(frozen=True)
class SearchOptions:
    """What the noises are for.

    Args:
        model: model whose size, or whose codes, the noises are for.
        image_size: of --images without --model: pixels.
        channels: of --images without --model.
        num_shown: images in pictures.
    """

    model: str | None = None
    image_size: int | None = None
    channels: Literal[1, 3] = 3
    num_shown: int = 8


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("search-noise", "IMAGE ...", __doc__)
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    for options in (SearchOptions, StatisticsSource, NoiseSearchSettings):
        parser.add_class_arguments(options, as_group=True)
    parser.set_defaults(num_chains=4)
    parser.add_model_options("probes/search_noise", skip={"num_samples", "convention", "noise_seed", "batch_size"})
    return parser


def search_noise(arguments: Sequence[str]) -> int:
    """``probediff search-noise``: returns the exit status."""
    return run_command(build_parser(), arguments, _search)


def _search(options: Any) -> None:
    check_at_least(options, num_shown=1, image_size=1)
    source, settings, device = pick(StatisticsSource, options), pick(NoiseSearchSettings, options), device_of(options)
    source.check()
    files = image_files(options.image)
    if options.model is None:
        space, codes_of = source.space(options.image_size, options.channels), {}
    else:
        # There is nothing to guide: the model's codes are wanted, and no image.
        model = load_editable(pick(ModelChoice, options), Prompts(guidance_scale=0.0)).to(device)
        space, codes_of = Space.of(model.probe), {"codes_of": model.name}
    images = read_images(files, space.pixel_shape)
    whitening, statistics = source.load(space)
    search = search_with_progress(space.codes(images).to(device).float(), whitening, settings)
    conventions = asdict(settings) | {"statistics": statistics, "shape": list(space.shape)} | codes_of
    noises = FoundNoises(images, search, [path.stem for path in files], conventions)
    out, checks = Path(options.out or "probes/search_noise"), distribution_checks(noises.noise)
    _write(out, noises, checks, space.pixels(whitening.dewhiten(noises.noise[: options.num_shown, 0])))
    columns = [search.initial_loss, search.loss, search.accept_rate]
    rows = zip(noises.names, *(column.mean(dim=1).tolist() for column in columns), strict=True)
    print(format_table(["image", "initial loss", "loss", "accept rate"], [list(row) for row in rows]))
    print(f"\n{distribution_table(checks)}\n\nEverything lies in {out}")


def _write(out: Path, noises: FoundNoises, checks: list[dict[str, Any]], dewhitened: Tensor) -> None:
    search = noises.search
    out.mkdir(parents=True, exist_ok=True)
    noises.save(out / "noises.safetensors")
    search_grid(noises.images, noises.noise, dewhitened, noises.names).save(out / "noises.png")
    curves = loss_curves(search.curve_iterations, search.curve, noises.names, noises.conventions["loss"])
    curves.savefig(out / "loss.png", dpi=120)
    columns = {name: getattr(search, name).tolist() for name in ("initial_loss", "loss", "accept_rate")}
    images = [
        {"image": name} | {column: values[k] for column, values in columns.items()}
        for k, name in enumerate(noises.names)
    ]
    write_json(out / "search_noise.json", {"conventions": noises.conventions, "checks": checks, "images": images})
