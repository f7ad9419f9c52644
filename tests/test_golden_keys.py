"""What a user types and reads has the names of commit ab251d7, but for the changes listed here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from probediff.__main__ import main
from tests.reference import make_golden_keys

pytestmark = pytest.mark.filterwarnings("ignore:sample_quality. FID of")

ROOT = Path(__file__).parents[1]
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests" / "reference" / "golden" / "keys.json").read_text())
QUICK = ("options", "configuration", "wandb", "fit")

#: Options of one meaning have one spelling in all commands: these are spelt ``--settings.NAME`` now.
RESPELT = {
    "edit": ("batch_size", "convention", "ema_rate", "noise_seed", "weights"),
    "inversions": ("batch_size", "convention", "ema_rate", "noise_seed", "num_samples", "weights"),
    "search-noise": ("ema_rate", "weights"),
    "vary": ("batch_size", "convention", "ema_rate", "noise_seed", "weights"),
    "whitening": ("batch_size", "convention", "ema_rate", "noise_seed", "num_samples", "weights"),
}
#: What stands before the options in a call of these commands.
BEFORE = {
    "edit": ["IMAGE", "--model", "MODEL"],
    "inversions": ["MODEL"],
    "search-noise": ["IMAGE"],
    "vary": ["NOISES", "MODEL"],
    "whitening": ["MODEL"],
}
_OF_SAMPLES = ("pixel_variance", "squared_norm_per_value", "squared_brightness")
#: What stands beside the variance of hubs.
_HUBS = (
    *(name for quantity in _OF_SAMPLES[1:] for name in (f"hubs_{quantity}", quantity)),
    *(f"captures_{quantity}_spearman" for quantity in _OF_SAMPLES),
)
_PLAIN = ("plain_area_ratio", "plain_area_ratio_null")
#: Files that are new: how reports and dashboards show what a probe records, which images a run has, and locks.
NEW_FILES = {"catalogue.json", "data.json", "process.lock", "writing.lock", "f7_hubs.csv", "f7_hubs.md", "f7_hubs.tex"}
NEW_FILES |= {f"verdicts{part}_1.{end}" for part in ("", "_exact", "_numbers") for end in ("csv", "md", "tex")}
#: Keys of records and metadata that are new, in whatever part: everything else that a number depends on.
RECORDED_NOW = {
    *_HUBS,
    # Columns of the table of hubs.
    *_PLAIN,
    *("hubs_sample", "hubs_captures", "hubs_share", "hubs_pixel_variance"),
    *("device", "cpu_capability", "num_threads", "num_processes", "tf32", "deterministic", "torch", "batch_size"),
    *("weights_sha256", "images_sha256", "features_sha256", "noises_sha256", "statistics_images_sha256", "sha256"),
    *("exif_orientation", "alpha", "resize", "version", "shape", "pixel_shape", "statistics_images"),
    *("weights", "prompt", "negative_prompt", "guidance_scale", "centred", "drawn_on", "strengths", "noises"),
    *("noise_seed", "num_targets", "num_samples", "state_dtype", "origin", "sha256 of what follows", "options"),
    *("image_size", "num_head_channels", "trust"),
    # Of exact denoisers, whose record network_similarity has the keys of checkpoint_similarity_final.
    *("bandwidth", "mirrored", "dropped_weight", "covariance_divisor", "statistics_of", "final_weights_sha256"),
    # Of W&B's runs.
    *("job_type", "notes"),
    # Of the training, whose speed counts these; of the checks of found noises.
    *("optimizer_steps", "p_value", "p_value_of_one_noise"),
}
#: A probe that is new, and what it logs: its records, arrays and figures have no earlier names.
NEW_PROBE = "denoiser_structure"
_STRUCTURE = {
    *("levels", "levels_table", "mirrored", "of_training_images"),
    *(f"num_{name}" for name in ("images", "held_out_images", "training_images", "network_evaluations")),
    *(f"num_levels{end}" for end in ("", "_left_out", "_identified")),
    *(f"bandwidth{end}" for end in ("", "_low", "_high")),
    *(f"{name}{end}" for name in ("r2", "linear_share") for end in ("", "_error", "_null")),
    *(f"nearer_to_gaussian_{end}_sigma" for end in ("from", "to")),
    *(f"{name}_sigma_{sigma}" for name in ("bandwidth", "linear_share") for sigma in (0.2, 0.5, 1, 2, 5)),
}
_STRUCTURE_OPTIONS = [f"{NEW_PROBE}.{name}" for name in ("enabled", "num_images", "num_training_images", "sigmas")]
#: A command that is new.
_VERDICTS = {"arguments: RUN", *(f"options: {name}" for name in ("--group_by", "--help", "--out", "-h"))}
#: Names that are new on purpose, as ``section: part: name``.
ADDED = {
    *(f"wandb: probe/assignment_accuracy/{key}" for key in (*_HUBS, "hubs_table")),
    *(f"wandb: probe/latent_normality/{key}" for key in _PLAIN),
    *(f"wandb: probe/{NEW_PROBE}/{key}" for key in _STRUCTURE),
    *(f"wandb: probe/timing/{NEW_PROBE}{part}_seconds" for part in ("", "_exact")),
    *(f"options: {verb}: options: --{name}" for verb in ("fit", "probe") for name in (NEW_PROBE, *_STRUCTURE_OPTIONS)),
    *(f"configuration: {name}" for name in _STRUCTURE_OPTIONS),
    # Also of W&B's.
    *(f"options: {verb}: options: --wandb.{name}" for verb in ("fit", "probe") for name in ("job_type", "notes")),
    *("configuration: wandb.job_type", "configuration: wandb.notes"),
    "dashboard --dry-run: probe/assignment_accuracy/hubs_table",
    "options: dashboard: options: --dry_run",
    *(f"options: {command}: options: --centre" for command in ("edit", "search-noise")),
    "configuration: data.init_args.skip_unreadable",
    # What the tensors of a state dict do not say.
    *(f"options: {command}: options: --num_head_channels" for command in (*RESPELT, "probe")),
    *(f"options: {command}: options: --image_size" for command in (*RESPELT, "probe") if command != "search-noise"),
    # Classes of a stranger's run are imported where it is asked for.
    *(f"options: {command}: options: --trust" for command in (*RESPELT, "probe")),
    # A command that is new.
    "options: compare: arguments: RUN",
    *(f"options: compare: options: --{name}" for name in ("denoisers", "images", "num_samples")),
    *(f"options: compare: options: {name}" for name in ("--device", "--out", "--trust", "--help", "-h")),
    # An optimiser of one's own; a run without one has no such key in its configuration.
    *(f"options: fit: options: --{name}{end}" for name in ("optimizer", "lr_scheduler") for end in ("", ".help")),
    *("configuration: optimizer", "configuration: lr_scheduler"),
    *(f"options: verdicts: {name}" for name in _VERDICTS),
    *(f"options: {command}: options: --settings" for command in RESPELT),
    *(f"options: {command}: options: --settings.{name}" for command, names in RESPELT.items() for name in names),
}
#: Names that went on purpose; the help does not show them, but they are accepted (below).
REMOVED = {
    "options: dashboard: options: --dry-run",
    *(f"options: {command}: options: --{name}" for command, names in RESPELT.items() for name in names),
}


def as_lines(value: Any, prefix: str = "") -> Iterator[str]:
    """One line for each name: ``options: fit: --run_dir``; a file without names in it is a line too."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from as_lines(part, f"{prefix}: {key}" if prefix else key)
    else:
        yield from (f"{prefix}: {name}" for name in value) if value else [prefix]


def changes(names: dict[str, Any], golden: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The names that were added, those in new files apart, and those that were removed."""
    now, then = set(as_lines(names)), set(as_lines(golden))
    return {line for line in now - then if not is_recorded_now(line)}, then - now


def is_recorded_now(line: str) -> bool:
    """Whether a name is of a new file, or a new key of a record."""
    section, *names = line.split(": ")
    # Standard errors, each of a number beside it.
    if names[-1].startswith("standard_error/") if section == "wandb" else ".standard_errors." in f".{names[-1]}":
        return True
    if section in ("options", "configuration", "wandb"):
        return False
    if {PurePosixPath(name).name for name in names} & NEW_FILES:
        return True
    if re.search(rf"{NEW_PROBE}|/structure_|^structure_", ": ".join(names)):
        return True
    # The files beside a result, the options of each probe, and of each method of inversion.
    if names[-1].startswith(("files.", "probes.")) or ".options." in f".{names[-1]}":
        return True
    # Beside each number its standard error.
    if "standard_errors." in names[-1]:
        return True
    # How a quantity is computed that an earlier version computed otherwise.
    if ".definitions." in f".{names[-1]}":
        return True
    return re.split(r"[./]", names[-1])[-1] in RECORDED_NOW


def on_purpose(lines: set[str], sections: set[str]) -> set[str]:
    """Those of ``lines`` that are about ``sections``."""
    return {line for line in lines if line.split(": ")[0] in sections}


@pytest.fixture(scope="module")
def quick_names(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Options, configuration, and what ``fit`` with all probes writes; and the folder that holds its run."""
    work = tmp_path_factory.mktemp("names")
    return make_golden_keys.list_quickly(ROOT / "configs", work), work


def test_options_configuration_records_and_wandb_keys_are_those_of_before(
    quick_names: tuple[dict[str, Any], Path],
) -> None:
    added, removed = changes(quick_names[0], {section: GOLDEN[section] for section in QUICK})
    assert added == on_purpose(ADDED, set(QUICK))
    assert removed == on_purpose(REMOVED, set(QUICK))


def test_standard_errors_have_the_keys_of_their_values(quick_names: tuple[dict[str, Any], Path]) -> None:
    logged = set(quick_names[0]["wandb"])
    assert {
        key.replace("standard_error/", "probe/", 1) for key in logged if key.startswith("standard_error/")
    } <= logged
    for names in quick_names[0]["fit"]["records.jsonl"].values():
        errors = (key for key in names if key.startswith("standard_errors."))
        assert {key.replace("standard_errors.", "values.", 1) for key in errors} <= set(names)


@pytest.mark.slow
def test_all_other_commands_write_what_they_wrote_before(quick_names: tuple[dict[str, Any], Path]) -> None:
    work = quick_names[1]
    golden = {section: part for section, part in GOLDEN.items() if section not in (*QUICK, "commit")}
    added, removed = changes(make_golden_keys.list_commands(work / "run", work), golden)
    assert added == on_purpose(ADDED, set(golden))
    assert removed == on_purpose(REMOVED, set(golden))


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, names in RESPELT.items() for name in names])
def test_an_earlier_spelling_is_understood(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be is refused under the new name."""
    try:
        status = main([command, *BEFORE[command], f"--{name}=neither"])
    except SystemExit as stop:
        status = stop.code
    assert status
    assert f"settings.{name}" in capsys.readouterr().err


def test_the_earlier_spelling_of_dry_run_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for option in ("--dry-run", "--dry_run"):
        assert main(["dashboard", "team/project", option]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def test_every_change_on_purpose_names_a_section() -> None:
    sections = set(GOLDEN) - {"commit"}
    assert on_purpose(ADDED | REMOVED, sections) == ADDED | REMOVED
