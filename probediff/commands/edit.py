"""``probediff edit``: SDEdit with random noise, found noise and the DDIM latent, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from probediff.commands.editing_options import (
    add_output,
    add_sampling,
    add_search,
    add_statistics,
    check_counts,
    device_of,
    search_settings,
)
from probediff.commands.runner import run_command
from probediff.editing.models import Sampler, check_prompt, load_editable
from probediff.editing.noises import search_with_progress
from probediff.editing.pictures import labelled_grid
from probediff.editing.sdedit import NOISE_KINDS, Edit, NoiseKind, edit_images
from probediff.editing.space import Space, check_sources, image_files, read_images, whitening_statistics
from probediff.editing.variation import compare_paired
from probediff.features.networks import load_features
from probediff.noise import seeded_noise
from probediff.report.table import format_table

_SIGNIFICANT = 0.05
_WORDS = {"random": "random noise", "found": "found noise", "ddim": "DDIM latent"}


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = argparse.ArgumentParser(
        prog="probediff edit",
        description="Edit images by going on from an intermediate step (SDEdit): with random noise, with noise found "
        "for the image, and from the image's DDIM latent.",
    )
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="what `probediff probe` takes; a Stable Diffusion or SDXL pipeline (folder or hub id); or gaussian:RUN",
    )
    parser.add_argument("--strengths", default="0.3,0.5,0.7", help="shares of the sampling steps (0.3,0.5,0.7)")
    parser.add_argument("--noises", default="random,found,ddim", help="kinds, with commas between (random,found,ddim)")
    parser.add_argument("--source_prompt", default="", help="of the images as they are, for DDIM inversion")
    parser.add_argument(
        "--features", metavar="SPEC", help="also compare features: dino, clip, timm/NAME, open_clip/NAME, =FILE"
    )
    add_statistics(parser)
    add_search(parser)
    add_sampling(parser)
    add_output(parser, "RUN/probes/edit")
    return parser


def edit(arguments: Sequence[str]) -> int:
    """``probediff edit``: returns the exit status."""
    return run_command(build_parser(), arguments, _edit)


def _edit(options: Any) -> str:
    check_counts(options, "num_shown", "num_images", "batch_size", "num_chains")
    strengths, kinds = _strengths(options.strengths), _kinds(options.noises)
    if "found" in kinds:
        check_sources(options)
    files = image_files(options.image)
    check_prompt(options, [options.model])
    model = load_editable(options.model, options)
    features = None if options.features is None else load_features(options.features)
    sampler = Sampler.of(model, options, device_of(options))
    space = Space.of(model.probe)
    images = read_images(files, space.pixel_shape)
    noises, conventions = _noises(options, kinds, space, sampler, images)
    edits = []
    for strength in strengths:
        for kind in kinds:
            print(f"strength {strength:g}, {_WORDS[kind]}", file=sys.stderr)
            edits.append(edit_images(sampler, images, strength, kind, noises.get(kind), features))
    out = Path(options.out) if options.out else model.out / "edit"
    out.mkdir(parents=True, exist_ok=True)
    names = [path.stem for path in files]
    _grid(images, names, edits, options.num_shown).save(out / "edit.png")
    conventions |= sampler.conventions | {"source_prompt": options.source_prompt, "features": options.features}
    tests = _tests(edits)
    record = {"conventions": conventions, "edits": [_record(one) for one in edits], "tests": tests, "images": names}
    (out / "edit.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return f"{_table(edits)}\n{_in_words(tests)}\n{len(images)} images. Everything lies in {out}"


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
    options: Any, kinds: list[NoiseKind], space: Space, sampler: Sampler, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(B, K, C, H, W) noises by kind, and what they depend on."""
    count = options.num_chains
    noises: dict[str, Tensor] = {}
    conventions: dict[str, Any] = {"noise_seed": options.noise_seed, "num_chains": count}
    if "random" in kinds:
        drawn = seeded_noise(options.noise_seed, range(len(images) * count), space.shape)
        noises["random"] = drawn.reshape(len(images), count, *space.shape)
    if "found" in kinds:
        settings = search_settings(options)
        whitening, statistics = whitening_statistics(options, space, sampler.device)
        codes = sampler.codes(images).to(sampler.device)
        noises["found"] = search_with_progress(codes, whitening, settings).noise
        conventions["search"] = asdict(settings) | {"statistics": statistics}
    return noises, conventions


def _record(one: Edit) -> dict[str, Any]:
    means = {name: float(values.mean()) for name, values in one.numbers.items()}
    each = {f"{name}_of_each": values.tolist() for name, values in one.numbers.items()}
    return {"strength": one.strength, "noise": one.noise, "steps_done": one.num_steps} | means | each


def _tests(edits: list[Edit]) -> list[dict[str, Any]]:
    """Found noise against random noise at each strength, paired over the images."""
    by_kind = {(one.strength, one.noise): one for one in edits}
    tests = []
    for strength in dict.fromkeys(one.strength for one in edits):
        found, random = (by_kind.get((strength, kind)) for kind in ("found", "random"))
        if found is not None and random is not None:
            compared = {
                name: asdict(compare_paired(found.numbers[name], random.numbers[name])) for name in found.numbers
            }
            tests.append({"strength": strength} | compared)
    return tests


def _in_words(tests: list[dict[str, Any]]) -> str:
    lines = []
    for test in tests:
        one = test["ssim"]
        if one["p_value"] is not None:
            more = "more structure than" if one["found"] > one["others"] else "less structure than"
            words = more if one["p_value"] < _SIGNIFICANT else "no clearly different structure from"
            lines.append(
                f"strength {test['strength']:g}: found noise keeps {words} random noise, SSIM {one['found']:.3f} "
                f"against {one['others']:.3f} (Wilcoxon over images, p = {one['p_value']:.2g})"
            )
    return "\n".join(["", *lines])


def _table(edits: list[Edit]) -> str:
    names = {"ssim": "SSIM", "features": "features", "distance": "distance"}
    shown = [name for name in names if name in edits[0].numbers]
    header = ["strength", "steps", "from", *(names[name] for name in shown)]
    rows = [
        [f"{e.strength:g}", e.num_steps, _WORDS[e.noise], *(float(e.numbers[n].mean()) for n in shown)] for e in edits
    ]
    return format_table(header, rows)


def _grid(images: Tensor, names: list[str], edits: list[Edit], num_shown: int) -> Any:
    """A row for each image; the first chain of every edit."""
    columns = ["input", *(f"{one.strength:g} {_WORDS[one.noise]}" for one in edits)]
    count = min(num_shown, len(images))
    rows = [[images[k], *(one.images[k, 0] for one in edits)] for k in range(count)]
    return labelled_grid(rows, columns, names[:count])
