"""Edit images by going on from an intermediate step (SDEdit): with random noise, with noise found for
the image, and from the image's DDIM latent.

Examples:
  probediff edit images --model runs/cifar10/RUN --run runs/cifar10/RUN --ridge 1e-3
  probediff edit images --model exact:runs/cifar10/RUN,h=0.4 --noises random,ddim --strengths 0.5
  probediff edit cat.png --model stabilityai/sd-turbo --prompt dog --source_prompt cat --guidance_scale 1 --noises ddim
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from probediff.commands.editing import (
    IMAGE_MODEL_HELP,
    add_sampling_options,
    describe_sampler,
    describe_statistics,
    load_sampler,
)
from probediff.commands.options import CommandParser, check_at_least, pick
from probediff.commands.runner import run_command
from probediff.editing.grids import labelled_grid
from probediff.editing.models import Prompts, Sampler, is_text_model
from probediff.editing.noise_search import NoiseSearchSettings
from probediff.editing.noises import describe_search, search_with_progress, sidak_level
from probediff.editing.sdedit import NOISE_KINDS, Edit, NoiseKind, edit_images
from probediff.editing.variation import compare_paired
from probediff.features.networks import FeatureNetwork, load_features
from probediff.files import digest_tensors
from probediff.models.images import Space, digest_images, image_files, read_images
from probediff.noise import seeded_noise
from probediff.prepare.decoding import DECODING
from probediff.runs.definitions import DEFINITIONS, SSIM
from probediff.runs.kept_results import lock_results, show_result, write_result
from probediff.runs.lock import claim
from probediff.runs.summary import format_table
from probediff.whitening.statistics import Statistics, StatisticsSource

RESULT, GRID = "edit.json", "edit.png"
#: How often any of the sentences is wrong where found noise keeps as much as random noise.
_FALSE_ALARM_RATE = 0.05
_WORDS = {"random": "random noise", "found": "found noise", "ddim": "DDIM latent"}
_HEADINGS = {"ssim": "SSIM", "features": "features", "distance": "distance"}


@dataclass(frozen=True)
class EditOptions:
    """The edits.

    Args:
        strengths: shares of the sampling steps, with commas between.
        noises: kinds, with commas between.
        features: also compare features: dino, clip, timm/NAME, open_clip/NAME, =FILE.
    """

    strengths: str = "0.3,0.5,0.7"
    noises: str = "random,found,ddim"
    features: str | None = None


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("edit", "IMAGE ... --model MODEL", __doc__)
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument("--model", metavar="MODEL", required=True, help=IMAGE_MODEL_HELP)
    for options in (EditOptions, StatisticsSource, NoiseSearchSettings):
        # --trust is an option of all models and runs.
        parser.add_class_arguments(options, as_group=True, skip={"trust"} if options is StatisticsSource else set())
    parser.set_defaults(num_chains=4)
    add_sampling_options(parser, "RUN/probes/edit", takes_source_prompt=True)
    return parser


def edit(arguments: Sequence[str]) -> int:
    """``probediff edit``: returns the exit status."""
    return run_command(build_parser(), arguments, _edit, "stopped; nothing was kept, start it again")


def _edit(options: Any) -> None:
    check_at_least(options, num_shown=1, batch_size=1, num_chains=1, noise_seed=0)
    strengths, kinds = _strengths(options.strengths), _kinds(options.noises)
    if "found" in kinds:
        pick(StatisticsSource, options).check()
    files = image_files(options.image)
    pick(Prompts, options).check([options.model])
    features = None if options.features is None else load_features(options.features)
    sampler = load_sampler(options, options.model)
    images = read_images(files, sampler.model.probe.pixel_shape)
    pick(NoiseSearchSettings, options).check(len(images), sampler.model.probe.image_shape)
    statistics = (
        describe_statistics(options, Space.of(sampler.model.probe), sampler.model) if "found" in kinds else None
    )
    conventions = {
        **{"strengths": strengths, "noises": kinds, "num_chains": options.num_chains},
        "noise_seed": options.settings.noise_seed,
        **{"images_sha256": digest_images(images), "decoding": dict(DECODING)},
        **{"features": options.features, "features_sha256": None if features is None else _digest(features)},
        **describe_sampler(sampler),
        "source_prompt": options.source_prompt if is_text_model(options.model) else None,
        DEFINITIONS: {"ssim": SSIM},
    }
    if statistics is not None:
        settings = pick(NoiseSearchSettings, options)
        conventions["search"] = describe_search(settings, statistics.origin, sampler.device)
    out = Path(options.out or sampler.model.out / "edit")
    with claim(out, "--out"):
        if show_result(out / RESULT, conventions, partial(_in_words, out)):
            return
        noises = _noises(options, kinds, statistics, sampler, images, conventions)
        edits = []
        for strength in strengths:
            for kind in kinds:
                print(f"strength {strength:g}, {_WORDS[kind]}", file=sys.stderr)
                edits.append(edit_images(sampler, images, strength, kind, noises.get(kind), features))
        names = [path.stem for path in files]
        record = {"conventions": conventions, "edits": [_record(e) for e in edits], "tests": _compare(edits)}
        record["images"] = names
        with lock_results(out):
            _grid(images[: options.num_shown], names, edits).save(out / GRID)
            write_result(out / RESULT, record, [GRID])
    print(_in_words(out, record))


def _digest(network: FeatureNetwork) -> str:
    return digest_tensors(chain(network.named_parameters(), network.named_buffers()))


def _strengths(text: str) -> list[float]:
    try:
        strengths = [float(part) for part in text.split(",")]
    except ValueError:
        strengths = []
    if not strengths or not all(0 < strength <= 1 for strength in strengths):
        raise ValueError(f"--strengths must be numbers in (0, 1] with commas between, such as 0.3,0.5, got {text!r}")
    return strengths


def _kinds(text: str) -> list[NoiseKind]:
    kinds = [kind for kind in NOISE_KINDS if kind in text.split(",")]
    if not kinds or len(kinds) != len(text.split(",")):
        raise ValueError(f"--noises must be some of {','.join(NOISE_KINDS)}, each once, got {text!r}")
    return kinds


def _noises(
    options: Any,
    kinds: list[NoiseKind],
    statistics: Statistics | None,
    sampler: Sampler,
    images: Tensor,
    conventions: dict[str, Any],
) -> dict[str, Tensor]:
    """(B, K, C, H, W) noises by kind; the digest of the statistics, which are known now, joins the conventions."""
    shape, count = sampler.model.probe.image_shape, options.num_chains
    noises: dict[str, Tensor] = {}
    if "random" in kinds:
        drawn = seeded_noise(options.settings.noise_seed, range(len(images) * count), shape)
        noises["random"] = drawn.unflatten(0, (-1, count))
    if statistics is not None:
        whitening, conventions["search"]["statistics"] = statistics.load()
        settings = pick(NoiseSearchSettings, options)
        noises["found"] = search_with_progress(sampler.codes(images).to(sampler.device), whitening, settings).noise
    return noises


def _record(edit: Edit) -> dict[str, Any]:
    means = {name: float(values.mean()) for name, values in edit.numbers.items()}
    each = {f"{name}_of_each": values.tolist() for name, values in edit.numbers.items()}
    return {"strength": edit.strength, "noise": edit.noise, "steps_done": edit.num_steps} | means | each


def _compare(edits: list[Edit]) -> list[dict[str, Any]]:
    """Found noise against random noise at each strength, paired over the images."""
    numbers = {(edit.strength, edit.noise): edit.numbers for edit in edits}
    return [
        {"strength": strength}
        | {name: asdict(compare_paired(values, numbers[strength, "random"][name])) for name, values in found.items()}
        for (strength, kind), found in numbers.items()
        if kind == "found" and (strength, "random") in numbers
    ]


def _in_words(out: Path, record: dict[str, Any]) -> str:
    tests = [test for test in record["tests"] if test["ssim"]["p_value"] is not None]
    sentences = [_structure_kept(test, len(record["images"]), len(tests)) for test in tests]
    end = f"{len(record['images'])} images. Everything lies in {out}"
    return "\n".join([_table(record["edits"]), "", *sentences, end])


def _structure_kept(test: dict[str, Any], num_images: int, num_tests: int) -> str:
    """What one of several tests says, at Sidak's level for their number."""
    found, others, p_value = (test["ssim"][name] for name in ("found", "others", "p_value"))
    level, smallest = sidak_level(_FALSE_ALARM_RATE, num_tests), 2 ** (1 - num_images)
    numbers = f"SSIM {found:.3f} against {others:.3f} (Wilcoxon over images, p = {p_value:.2g}"
    if smallest >= level:
        words = f"{num_images} images are too few to tell found noise from random noise"
        return f"strength {test['strength']:g}: {words}, {numbers}; it cannot fall below {smallest:.2g})"
    words = "more structure than" if found > others else "less structure than"
    if p_value >= level:
        words = "no clearly different structure from"
    return f"strength {test['strength']:g}: found noise keeps {words} random noise, {numbers}; clear below {level:.2g})"


def _table(edits: list[dict[str, Any]]) -> str:
    shown = [name for name in _HEADINGS if name in edits[0]]
    header = ["strength", "steps", "from", *(_HEADINGS[name] for name in shown)]
    rows = [
        [f"{e['strength']:g}", e["steps_done"], _WORDS[e["noise"]], *(float(e[name]) for name in shown)] for e in edits
    ]
    return format_table(header, rows)


def _grid(images: Tensor, names: list[str], edits: list[Edit]) -> Any:
    """A row for each image; the first chain of every edit."""
    columns = ["input", *(f"{edit.strength:g} {_WORDS[edit.noise]}" for edit in edits)]
    rows = [[image, *(edit.images[k, 0] for edit in edits)] for k, image in enumerate(images)]
    return labelled_grid(rows, columns, names[: len(rows)])
