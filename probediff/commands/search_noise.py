"""``probediff search-noise``: noises that resemble images, by simulated annealing (P2, algorithm 1)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probediff.commands.editing_options import (
    add_output,
    add_search,
    add_statistics,
    add_weights,
    check_counts,
    device_of,
    search_settings,
)
from probediff.commands.runner import run_command
from probediff.editing.models import load_editable
from probediff.editing.noises import FoundNoises, distribution_checks, distribution_table, search_with_progress
from probediff.editing.pictures import loss_curves, save_figure, search_grid
from probediff.editing.space import (
    Space,
    check_sources,
    image_files,
    read_images,
    space_without_model,
    whitening_statistics,
)
from probediff.measures.whitening import Whitening
from probediff.report.table import format_table


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = argparse.ArgumentParser(
        prog="probediff search-noise",
        description="Find noises that resemble images, without any model: only the whitening statistics of such images "
        "are needed. `probediff vary` shows what models make of them. For a latent diffusion or text-to-image MODEL "
        "the search runs in the space of its codes.",
    )
    parser.add_argument("image", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument("--model", metavar="MODEL", help="model whose size, or whose codes, the noises are for")
    parser.add_argument("--image_size", type=int, help="of --images without --model: pixels")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="of --images without --model (3)")
    add_statistics(parser)
    add_search(parser)
    add_weights(parser)
    add_output(parser, "probes/search_noise")
    return parser


def search_noise(arguments: Sequence[str]) -> int:
    """``probediff search-noise``: returns the exit status."""
    return run_command(build_parser(), arguments, _search)


def _search(options: Any) -> str:
    check_counts(options, "num_shown", "num_images", "image_size")
    check_sources(options)
    settings, device, files = search_settings(options), device_of(options), image_files(options.image)
    space, of_model = _space(options)
    images = read_images(files, space.pixel_shape)
    whitening, statistics = whitening_statistics(options, space, device)
    found = search_with_progress(space.codes(images, device).float(), whitening, settings)
    conventions = asdict(settings) | {"statistics": statistics, "shape": list(space.shape)} | of_model
    noises = FoundNoises(images, found, [path.stem for path in files], conventions)
    out = Path(options.out or "probes/search_noise")
    _write(out, noises, whitening, space, options.num_shown)
    return f"{_table(noises)}\n\n{distribution_table(distribution_checks(noises.noise))}\n\nEverything lies in {out}"


def _space(options: Any) -> tuple[Space, dict[str, Any]]:
    if options.model is None:
        return space_without_model(options), {}
    model = load_editable(options.model, options)
    return Space.of(model.probe), {"codes_of": model.name}


def _write(out: Path, noises: FoundNoises, whitening: Whitening, space: Space, num_shown: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    noises.save(out / "noises.safetensors")
    search = noises.search
    dewhitened = space.pixels(whitening.dewhiten(noises.noise[:num_shown, 0]))
    search_grid(noises.images, noises.noise, dewhitened, noises.names).save(out / "noises.png")
    loss = noises.conventions["loss"]
    save_figure(loss_curves(search.curve_iterations, search.curve, noises.names, loss), out / "loss.png")
    record = {
        "conventions": noises.conventions,
        "checks": distribution_checks(noises.noise),
        "images": [
            {
                "image": name,
                "initial_loss": search.initial_loss[k].tolist(),
                "loss": search.loss[k].tolist(),
                "accept_rate": search.accept_rate[k].tolist(),
            }
            for k, name in enumerate(noises.names)
        ],
    }
    (out / "search_noise.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _table(noises: FoundNoises) -> str:
    search = noises.search
    columns = [search.initial_loss, search.loss, search.accept_rate]
    means = [[float(value) for value in column.mean(dim=1)] for column in columns]
    rows = [[name, *numbers] for name, *numbers in zip(noises.names, *means, strict=True)]
    return format_table(["image", "initial loss", "loss", "accept rate"], rows)
