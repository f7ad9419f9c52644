"""The catalogue: what it says of every probe, against what probes record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from probediff.commands.options import available_probes
from probediff.probing import ProbeResult
from probediff.runs.catalogue import PROBES
from probediff.runs.descriptions import Column, Description
from probediff.runs.folder import RunFolder
from probediff.runs.tracking import Entry, Tracker

Fit = Callable[..., tuple[Any, L.Trainer]]

#: What the 8x8 digits need beside the defaults; the keys do not depend on it.
OPTIONS: dict[str, dict[str, Any]] = {
    "denoiser_structure": {"num_images": 4, "num_training_images": 100, "sigmas": [1.0]},
    "whitening": {"num_images": 100, "num_fixed_points": 70, "num_iterations": 2, "ridge": 1e-2},
}


@pytest.fixture
def recorded(fit: Fit, tmp_path: Path) -> dict[str, set[str]]:
    """The keys of every probe in the records of a run with all of them, and of pictures."""
    probes = [probe(enabled=True, **OPTIONS.get(name, {})) for name, probe in available_probes().items()]
    fit(probes)
    keys: dict[str, set[str]] = {}
    for record in RunFolder(tmp_path / "run").records():
        keys.setdefault(record["probe"], set()).update(record["values"])
    for path in (tmp_path / "run" / "pictures").iterdir():
        _, probe, name, _ = path.name.split(".")
        keys.setdefault(probe, set()).add(name)
    return {probe: names for probe, names in keys.items() if names}


def test_every_recorded_key_is_in_the_catalogue_and_every_key_there_is_recorded(recorded: dict[str, set[str]]) -> None:
    # The first is logged by Lightning to W&B alone; the second measures nothing without a feature network; the third
    # is of exact denoisers (tests/commands/test_exact.py).
    assert set(PROBES) - set(recorded) == {"train", "sample_quality", "network_similarity"}
    for probe, keys in recorded.items():
        description = PROBES[probe]
        assert description.extended(dict.fromkeys(keys, "number")) == description, probe
        assert {
            c.key for c in description.columns if "*" not in c.key and c.kind not in ("histogram", "table")
        } <= keys, probe


def test_a_run_describes_its_probes(recorded: dict[str, set[str]], tmp_path: Path) -> None:
    written = json.loads((tmp_path / "run" / "catalogue.json").read_text())
    assert {key: Description.from_json(entry) for key, entry in written.items()} == {
        probe: PROBES[probe] for probe in recorded
    }


def test_every_null_is_a_key_of_its_probe() -> None:
    for description in PROBES.values():
        keys = [column.key for column in description.columns]
        assert len(keys) == len(set(keys))
        assert all(column.null in keys for column in description.columns if column.null)


@pytest.mark.parametrize(
    ("key", "null"),
    [
        ("identity_share", "identity_share_null"),
        ("image_hubness", "hubness_null"),
        ("noise_hubness", "hubness_null"),
        ("optimal_cost", ""),
        ("num_samples", ""),
    ],
)
def test_nulls_are_told_by_the_catalogue_or_by_their_names(key: str, null: str) -> None:
    keys = [column.key for column in PROBES["noise_image_map"].columns]
    assert PROBES["noise_image_map"].null_of(key, keys) == null
    assert Description("unknown").null_of(key, keys) == null
    assert PROBES["noise_image_map"].null_of(key, []) == ""


def test_units_stand_at_the_end_of_names() -> None:
    units = {key: Column(key).unit for key in ("at_noise_mean_deg", "pass_seconds", "null_share", "latent_std")}
    assert list(units.values()) == ["degrees", "seconds", "share", "value"]


def test_features_are_described_by_patterns() -> None:
    quality = PROBES["sample_quality"]
    assert quality.column("timm_vit_fid_full_rank").is_setting
    assert not quality.column("timm_vit_fid").is_setting
    keys = ["timm_vit_fid", "timm_vit_fid_null", "timm_vit_kid_std"]
    assert quality.extended(dict.fromkeys(keys, "number")) == quality
    assert quality.null_of("timm_vit_fid", keys) == "timm_vit_fid_null"
    assert PROBES["checkpoint_similarity_final"].column("dino_cosine").panel == "Similarity to the final samples"


def test_probes_of_others_are_described_by_what_they_record(tmp_path: Path) -> None:
    tracker = Tracker(RunFolder(tmp_path).create(), [])
    picture, array = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2)
    tracker.log([Entry(0, "mine", ProbeResult({"x_deg": 1.0, "num_x": 2.0}), {})])
    assert RunFolder(tmp_path).catalogue()["mine"] == Description(
        "mine", "mine", columns=(Column("x_deg"), Column("num_x", is_setting=True))
    )
    result = ProbeResult({"x_deg": 1.0, "x_null": 0.0}, {"a": array}, {"p": picture}, ("a",))
    tracker.log([Entry(1, "mine", result, {}), Entry(1, "timing", ProbeResult({"event_seconds": 1.0}), {})])
    # Another process that goes on with the run knows what the first one saw.
    Tracker(RunFolder(tmp_path), []).log([Entry(2, "mine", ProbeResult({"y": 1.0}), {})])
    catalogue = RunFolder(tmp_path).catalogue()
    kinds = {column.key: column.kind for column in catalogue["mine"].columns}
    assert kinds == {
        "x_deg": "number",
        "num_x": "number",
        "x_null": "number",
        "p": "picture",
        "a_histogram": "histogram",
        "y": "number",
    }
    assert catalogue["timing"] is PROBES["timing"]


def test_a_description_survives_its_file() -> None:
    for description in PROBES.values():
        assert Description.from_json(description.to_json()) == description
