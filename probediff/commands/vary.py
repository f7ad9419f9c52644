"""``probediff vary``: what models make of found noises."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from probediff.commands.editing_options import add_output, add_sampling, check_counts, device_of
from probediff.commands.runner import run_command
from probediff.editing.models import Sampler, check_prompt, load_editable
from probediff.editing.noises import FoundNoises
from probediff.editing.pictures import labelled_grid
from probediff.editing.variation import PairedComparison, Variations, compare_paired, vary_noises
from probediff.report.table import format_table

_SHOWN_CHAINS = 2
_AGAINST = {"random": "random noise", "another": "another target's"}


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = argparse.ArgumentParser(
        prog="probediff vary",
        description="Images from the noises of `probediff search-noise` by one or several models, beside images from "
        "random noises, and whether they are nearer to the target images.",
    )
    parser.add_argument("noises", metavar="NOISES", help="noises.safetensors of probediff search-noise")
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="+",
        help="what `probediff probe` takes; a Stable Diffusion or SDXL pipeline (folder or hub id); or gaussian:RUN",
    )
    add_sampling(parser)
    add_output(parser, "probes/vary")
    return parser


def vary(arguments: Sequence[str]) -> int:
    """``probediff vary``: returns the exit status."""
    return run_command(build_parser(), arguments, _vary)


def _vary(options: Any) -> str:
    check_counts(options, "num_shown", "batch_size")
    check_prompt(options, options.model)
    noises = FoundNoises.load(options.noises)
    made, results = [], []
    for spec in options.model:
        found, result = _one_model(spec, noises, options)
        made.append((result["model"], found))
        results.append(result)
    out = Path(options.out or "probes/vary")
    out.mkdir(parents=True, exist_ok=True)
    _grid(noises, made, options.num_shown).save(out / "vary.png")
    record = {"noises": noises.conventions, "noise_seed": options.noise_seed, "models": results}
    (out / "vary.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return f"{_table(results)}\n\n{len(noises.images)} targets. Everything lies in {out}"


def _one_model(spec: str, noises: FoundNoises, options: Any) -> tuple[Variations, dict[str, Any]]:
    """Each model is gone before the next one comes, for several do not fit everywhere."""
    model = load_editable(spec, options)
    print(f"{model.name}: {2 * noises.noise.shape[:2].numel()} images", file=sys.stderr)
    sampler = Sampler.of(model, options, device_of(options))
    found = vary_noises(sampler, noises, options.noise_seed)
    return found, {"model": model.name, "conventions": sampler.conventions, **_numbers(found)}


def _numbers(found: Variations) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, kinds in found.numbers.items():
        others = [kind for kind in kinds if kind != "found"]
        numbers[name] = {kind: asdict(compare_paired(kinds["found"], kinds[kind])) for kind in others}
        numbers |= {f"{name}_of_each_{kind}": values.tolist() for kind, values in kinds.items()}
    return numbers


def _table(results: list[dict[str, Any]]) -> str:
    header = ["model", "measure", "found noise", "against", "its number", "lower with found", "p (Wilcoxon)"]
    rows = []
    for result in results:
        for name, words in (("distance", "distance to target"), ("ssim", "SSIM with target")):
            for kind, against in _AGAINST.items():
                if kind in result[name]:
                    one = PairedComparison(**result[name][kind])
                    p_value = "-" if one.p_value is None else f"{one.p_value:.2g}"
                    share = f"{one.share_lower:.0%}"
                    rows.append([result["model"], words, one.found, against, one.others, share, p_value])
    return format_table(header, rows)


def _grid(noises: FoundNoises, made: list[tuple[str, Variations]], num_shown: int) -> Any:
    chains = min(_SHOWN_CHAINS, noises.noise.shape[1])
    columns = ["target"]
    for name, _ in made:
        columns += [f"{name} {kind}" for kind in ("found", "random") for _ in range(chains)]
    rows = []
    for k in range(min(num_shown, len(noises.images))):
        row: list[Tensor] = [noises.images[k]]
        for _, one in made:
            row += [*one.found[k, :chains], *one.random[k, :chains]]
        rows.append(row)
    return labelled_grid(rows, columns, noises.names[: len(rows)])
