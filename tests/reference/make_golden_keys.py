"""Lists all names that a user types or reads: options, configuration keys, record keys, W&B keys, files and columns.

It works through the command line alone, so that it lists any version of the project:

    python -m tests.reference.make_golden_keys --commit $(git rev-parse HEAD) --out tests/reference/golden/keys.json

The list in ``golden/keys.json`` is that of commit ab251d7, the last before the modules moved into rooms;
``tests/test_golden_keys.py`` says what has changed since, and that nothing else has.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from probediff.__main__ import COMMANDS, main
from tests.reference.wandb_log import history

TINY_NETWORK = "test_vit.r160_in1k"
OFF_BY_DEFAULT = ("latent_interpolation", "paper_compat", "whitening")
TINY_FIT = [
    "--network.channels=8",
    "--model.num_train_timesteps=40",
    "--trainer.max_steps=2",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--wandb.mode=offline",
    "--probing.progress=false",
    "--probing.schedule.steps=[]",
    "--probing.schedule.every_n_steps=null",
    "--probing.settings.num_samples=16",
    "--probing.settings.num_steps=4",
    "--probing.settings.batch_size=8",
    "--checkpoint_similarity.num_directions=3",
    "--latent_interpolation.num_pairs=2",
    "--sample_quality.kid_subset_size=4",
    "--sample_quality.num_real=16",
    "--whitening.num_fixed_points=70",
    "--whitening.num_iterations=2",
    "--whitening.ridge=0.01",
    *(f"--{probe}.enabled=true" for probe in OFF_BY_DEFAULT),
]
TINY_SEARCH = ["--num_iterations=50", "--num_chains=2", "--initial_temperature=1", "--final_temperature=0.1"]


def call(*arguments: object) -> str:
    """What a command prints.

    Raises:
        RuntimeError: when it fails.
    """
    printed, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(errors):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = exit_.code or 0
    if status:
        raise RuntimeError(f"probediff {' '.join(map(str, arguments))} ended with {status}:\n{errors.getvalue()}")
    return printed.getvalue()


def option_names(help_text: str) -> dict[str, list[str]]:
    """Names of the options and of the positional arguments on a page of help."""
    options, positional, section = set(), set(), ""
    for line in help_text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            section = line
        names = re.match(r" {2}(-[^ ]+( [^ ]+)*)", line)
        if names:
            options |= set(re.findall(r"(?:^|[ ,])(--?[a-zA-Z][\w.-]*)", names[1]))
        elif section == "positional arguments:" and (name := re.match(r" {2,4}([\w/]+)", line)):
            positional.add(name[1])
    return {"options": sorted(options), "arguments": sorted(positional)}


def list_options() -> dict[str, Any]:
    """Options of every command, from its help."""
    os.environ["COLUMNS"] = "250"
    pages = {name: call(name, "--help") for name in COMMANDS}
    pages |= {f"prepare {target}": call("prepare", target, "--help") for target in ("imagenet64", "stream")}
    return {name: option_names(page) for name, page in pages.items()}


def flat_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of nested dictionaries; what lies in a list has ``[]`` for its index."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from flat_keys(part, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for part in value:
            yield from flat_keys(part, f"{prefix}[]")
    else:
        yield prefix


def list_configuration(configs: Path) -> list[str]:
    """Keys of the whole configuration of ``fit``, over all files of ``configs``."""
    keys: set[str] = set()
    for path in sorted(configs.glob("*.yaml")):
        keys |= set(flat_keys(yaml.safe_load(call("fit", "--config", path, "--print_config"))))
    return sorted(keys)


def sorted_keys(value: Any) -> list[str]:
    """The flat keys, each once."""
    return sorted(set(flat_keys(value)))


def list_folder(folder: Path) -> dict[str, Any]:
    """Files of a folder of results, and the names in each: keys, columns, tensors."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: sorted_keys(json.loads(path.read_text())),
        ".jsonl": list_records,
        ".yaml": lambda path: sorted_keys(yaml.safe_load(path.read_text())),
        ".csv": list_columns,
        ".safetensors": list_tensors,
    }
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    return {
        name: readers.get(path.suffix, lambda _: [])(path)
        for path, name in names.items()
        if not name.startswith("wandb/")
    }


def list_columns(path: Path) -> list[str]:
    """Columns of a table, without those of the standard error, the spread and the number beside each."""
    beside = (", standard error", ", std", ", ± not defined in P1", ", n")
    with path.open(newline="") as file:
        return [name for name in next(csv.reader(file)) if not name.endswith(beside)]


def list_tensors(path: Path) -> list[str]:
    """Names of the tensors and of the metadata of a file."""
    with safe_open(path, "pt") as file:
        return sorted([*file.keys(), *(f"metadata: {key}" for key in file.metadata() or {})])


def list_records(path: Path) -> dict[str, list[str]]:
    """Keys of the records of each probe, over all steps; the conventions that all have stand apart."""
    keys: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        keys.setdefault(record["probe"], set()).update(flat_keys(record))
    shared = {key for key in set.intersection(*keys.values()) if key.startswith("conventions.")}
    listed = {probe: sorted(names - shared) for probe, names in sorted(keys.items())}
    return {"every probe": sorted(shared)} | listed


def list_wandb(run: Path) -> list[str]:
    """Keys of everything that the run logged to W&B; a picture or histogram is one key."""
    keys = {key for row in history(run) for key in row}
    media = {key.removesuffix("/_type") for key in keys if key.endswith("/_type")}
    return sorted(media | {key for key in keys if key.rpartition("/")[0] not in media})


def write_images(folder: Path, count: int) -> Path:
    """Writes ``count`` grey images of 8 x 8 pixels."""
    folder.mkdir()
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"image{k}.png")
    return folder


def make_run(configs: Path, work: Path) -> Path:
    """Trains a tiny run with all probes, and W&B offline, in ``work/run``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model(TINY_NETWORK).state_dict(), work / "vit.pth")
    features = f'["timm/{TINY_NETWORK}={work / "vit.pth"}"]'
    networks = [f"--{probe}.features={features}" for probe in ("sample_quality", "checkpoint_similarity")]
    call("fit", "--config", configs / "digits.yaml", *TINY_FIT, *networks, "--run_dir", work / "run")
    return work / "run"


def list_commands(run: Path, work: Path) -> dict[str, Any]:
    """What every other command makes of the run."""
    images = write_images(work / "images", 6)
    noises, statistics = work / "search-noise" / "noises.safetensors", work / "statistics.safetensors"
    cpu, steps = "--device=cpu", "--num_steps=2"
    probing = ["--checkpoints=last", cpu, "--progress=false", "--checkpoint_similarity.enabled=false"]
    searching = ["--statistics", statistics, *TINY_SEARCH]
    commands: dict[str, list[Any]] = {
        "probe": [run, *probing, steps],
        "probe gaussian": [run, *probing, steps, "--denoiser=gaussian"],
        "probe images": [run, *probing, "--num_steps=2,4", "--images", images, "--settings.num_samples=6"],
        "inversions": [run, "--num_samples=3", "--num_steps=8", cpu],
        "whitening": [
            *(run, "--ridge=0.01", "--iterations=1,2", "--num_samples=5", "--num_fixed_points=70", steps, cpu)
        ],
        "search-noise": [images, "--run", run, "--ridge=0.01", "--save_statistics", statistics, *TINY_SEARCH],
        "vary": [noises, run, f"gaussian:{run}", steps, cpu],
        "edit": [images / "image0.png", images / "image1.png", "--model", run, *searching, steps, cpu],
        "report": [run],
    }
    results: dict[str, Any] = {}
    for name, arguments in commands.items():
        call(name.split()[0], *arguments, "--out", work / name)
        results[name] = list_folder(work / name)
    results["runs --json"] = sorted_keys(json.loads(call("runs", run, "--json")))
    plan = call("dashboard", "team/project", "--dry-run", "--json")
    results["dashboard --dry-run"] = sorted(set(re.findall(r"probe/[\w/.]+", plan)))
    return results


def list_quickly(configs: Path, work: Path) -> dict[str, Any]:
    """All names but those of the results of other commands than ``fit``; the run lies in ``work/run`` then."""
    run = make_run(configs, work)
    return {
        "options": list_options(),
        "configuration": list_configuration(configs),
        "wandb": list_wandb(run),
        "fit": list_folder(run),
    }


def write_list(commit: str, configs: Path, path: Path) -> None:
    """Writes the list of all names to ``path``."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = {"commit": commit} | list_quickly(configs, work) | list_commands(work / "run", work)
    path.write_text(json.dumps(names, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", required=True, help="whose names these are")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder of the configurations (configs)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    write_list(options.commit, options.configs.resolve(), options.out)
