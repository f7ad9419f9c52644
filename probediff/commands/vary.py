"""Images from the noises of `probediff search-noise` by one or several models, beside images from random
noises, and whether they are nearer to the target images.

Examples:
  probediff vary probes/search_noise/noises.safetensors runs/cifar10/RUN gaussian:runs/cifar10/RUN
  probediff vary probes/search_noise/noises.safetensors exact:runs/cifar10/RUN,h=0.3 exact:runs/cifar10/RUN,h=0.6
  probediff vary noises.safetensors stabilityai/sd-turbo --prompt "a photograph" --guidance_scale 1 --num_steps 4
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from probediff.commands.editing import IMAGE_MODEL_HELP, add_sampling_options, describe_sampler, load_sampler
from probediff.commands.options import CommandParser, check_at_least, pick
from probediff.commands.runner import run_command
from probediff.editing.grids import labelled_grid
from probediff.editing.models import Prompts
from probediff.editing.noises import FoundNoises
from probediff.editing.variation import Variations, compare_paired, vary_noises
from probediff.runs.definitions import DEFINITIONS, SSIM
from probediff.runs.kept_results import lock_results, show_result, write_result
from probediff.runs.lock import claim
from probediff.runs.summary import format_table

RESULT, GRID = "vary.json", "vary.png"
_SHOWN_CHAINS = 2
_MEASURES = {"distance": "distance to target", "ssim": "SSIM with target"}
_AGAINST = {"random": "random noise", "another": "another target's"}


def build_parser() -> CommandParser:
    """All options of the command."""
    parser = CommandParser("vary", "NOISES MODEL ...", __doc__)
    parser.add_argument("noises", metavar="NOISES", help="noises.safetensors of probediff search-noise")
    parser.add_argument("model", metavar="MODEL", nargs="+", help=IMAGE_MODEL_HELP)
    add_sampling_options(parser, "probes/vary", takes_source_prompt=False)
    return parser


def vary(arguments: Sequence[str]) -> int:
    """``probediff vary``: returns the exit status."""
    return run_command(build_parser(), arguments, _vary, "stopped; nothing was kept, start it again")


def _vary(options: Any) -> None:
    check_at_least(options, num_shown=1, batch_size=1, noise_seed=0)
    pick(Prompts, options).check(options.model)
    noises, out = FoundNoises.load(options.noises), Path(options.out or "probes/vary")
    conventions: dict[str, Any] = {"noises_sha256": noises.digest, "noise_seed": options.settings.noise_seed}
    conventions[DEFINITIONS] = {"ssim": SSIM}
    with claim(out, "--out"):
        if (out / RESULT).exists():
            models = [describe_sampler(load_sampler(options, model)) for model in options.model]
            if show_result(out / RESULT, conventions | {"models": models}, partial(_in_words, out), _settings_of):
                return
        results, variations = [], []
        for model in options.model:
            name, how, images = _vary_by(model, noises, options)
            results.append({"model": name, "conventions": how, **_compare(images)})
            variations.append((name, images))
        record: dict[str, Any] = {"conventions": conventions, "noises": noises.conventions, "models": results}
        record |= {"noise_seed": options.settings.noise_seed, "num_targets": len(noises.images)}
        with lock_results(out):
            _grid(noises, variations, options.num_shown).save(out / GRID)
            write_result(out / RESULT, record, [GRID])
    print(_in_words(out, record))


def _vary_by(spec: str, noises: FoundNoises, options: Any) -> tuple[str, dict[str, Any], Variations]:
    """Name, conventions and images of a model, which is gone before the next one comes: not everywhere fit two."""
    sampler = load_sampler(options, spec)
    print(f"{sampler.model.name}: {2 * noises.noise.shape[:2].numel()} images", file=sys.stderr)
    images = vary_noises(sampler, noises, options.settings.noise_seed)
    return sampler.model.name, describe_sampler(sampler), images


def _settings_of(record: dict[str, Any]) -> dict[str, Any]:
    return {**record["conventions"], "models": [model["conventions"] for model in record["models"]]}


def _in_words(out: Path, record: dict[str, Any]) -> str:
    return f"{_table(record['models'])}\n\n{record['num_targets']} targets. Everything lies in {out}"


def _compare(variations: Variations) -> dict[str, Any]:
    """Every number of found noises against that of the other kinds, and the numbers themselves."""
    numbers: dict[str, Any] = {}
    for name, kinds in variations.numbers.items():
        others = {kind: values for kind, values in kinds.items() if kind != "found"}
        numbers[name] = {kind: asdict(compare_paired(kinds["found"], values)) for kind, values in others.items()}
        numbers |= {f"{name}_of_each_{kind}": values.tolist() for kind, values in kinds.items()}
    return numbers


def _table(results: list[dict[str, Any]]) -> str:
    header = ["model", "measure", "found noise", "against", "its number", "lower with found", "p (Wilcoxon)"]
    rows = []
    for result in results:
        for name, measure in _MEASURES.items():
            for kind, compared in result[name].items():
                p_value = "-" if compared["p_value"] is None else f"{compared['p_value']:.2g}"
                share = f"{compared['share_lower']:.0%}"
                rows.append(
                    [result["model"], measure, compared["found"], _AGAINST[kind], compared["others"], share, p_value]
                )
    return format_table(header, rows)


def _grid(noises: FoundNoises, variations: list[tuple[str, Variations]], num_shown: int) -> Any:
    """A row for each target; a few chains of every model."""
    chains = min(_SHOWN_CHAINS, noises.noise.shape[1])
    columns = ["target"]
    rows = [[image] for image in noises.images[:num_shown]]
    for name, images in variations:
        columns += [f"{name} {kind}" for kind in ("found", "random") for _ in range(chains)]
        for k, row in enumerate(rows):
            row += [*images.found[k, :chains], *images.random[k, :chains]]
    return labelled_grid(rows, columns, noises.names[: len(rows)])
