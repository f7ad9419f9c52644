"""The specification against the keys that a real run logs, and its rules for keys that are new."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.commands.fit import available_probes
from probediff.dashboard.specification import Panel, Section, is_bookkeeping, specification
from probediff.runs.catalogue import PROBES, default_keys
from probediff.runs.descriptions import Kind
from probediff.runs.grouping import group_of
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings
from tests.reference.wandb_log import history

Fit = Callable[..., tuple[Any, L.Trainer]]


def logged_keys(rows: list[dict[str, Any]]) -> dict[str, Kind]:
    """Keys as the run logged them: W&B stores a picture or a histogram as several values below its key."""
    kinds: dict[Any, Kind] = {"image-file": "picture", "histogram": "histogram", "table-file": "table"}
    media = {key.removesuffix("/_type"): kinds[v] for row in rows for key, v in row.items() if key.endswith("/_type")}
    below = tuple(f"{key}/" for key in media)
    numbers = {key for row in rows for key in row if not key.startswith(below)}
    return media | dict.fromkeys(sorted(numbers), "number")


def all_panels(sections: list[Section]) -> list[Panel]:
    return [panel for section in sections for panel in section.panels]


def panel_of(key: str, keys: list[str]) -> tuple[str, Panel]:
    """Section and panel of ``key`` among ``keys``, all of them numbers."""
    sections = specification(dict.fromkeys(keys, "number"))
    (found,) = ((s.title, panel) for s in sections for panel in s.panels if key in panel.keys)
    return found


def test_every_key_of_a_run_with_all_probes_is_in_one_panel_and_none_that_it_lacks(fit: Fit, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    probes: list[L.Callback] = [probe() for probe in available_probes().values()]
    fit(probes, logger=FailsafeWandbLogger(WandbSettings(mode="offline"), root), log_every_n_steps=1)
    logged = logged_keys(history(root))
    shown = Counter(key for panel in all_panels(specification(logged)) for key in panel.keys)
    expected = {key for key in logged if not is_bookkeeping(key)}
    assert set(shown) == expected
    assert set(shown.values()) == {1}
    others = ("_", "standard_error/")
    known, found = default_keys().items(), {k: kind for k, kind in logged.items() if not k.startswith(others)}.items()
    assert known == found, f"the catalogue lacks {sorted(found - known)}, not logged: {sorted(known - found)}"


def test_sections_come_in_their_order_and_hold_their_probes() -> None:
    sections = specification(default_keys())
    order = "Training, Fixed noise, Triangle, Assignment, Correlation, Similarity, Normality, Trajectory, Map"
    assert [section.title for section in sections] == order.split(", ")
    for section in sections:
        probes = {key.split("/")[-2] for panel in section.panels for key in panel.keys}
        assert {PROBES[probe].section for probe in probes} == {section.title}
        assert {panel.log_x for panel in section.panels if panel.kind == "number"} == {section.title != "Training"}


def test_curves_that_belong_together_share_a_panel() -> None:
    panels = {panel.title: panel for panel in all_panels(specification(default_keys()))}
    assert panels["Mean of the largest correlations"].keys == tuple(
        f"probe/pixel_correlation/{name}" for name in ("noise", "latent", "sample", "null")
    )
    assert panels["Mean angles (deg)"].keys == tuple(
        f"probe/inversion_angles/at_{name}_deg"
        for name in ("noise_mean", "image_mean", "latent_mean", "image_of_mean_cosine")
    )
    assert set(panels["Hubness"].keys) == {
        f"probe/noise_image_map/{name}" for name in ("image_hubness", "noise_hubness", "hubness_null")
    }
    final = panels["Similarity to the final samples"].keys
    assert [key.removeprefix("probe/checkpoint_similarity_final/") for key in final] == [
        "cka",
        "cka_debiased",
        "svcca",
        "ssim",
    ]
    assert all(len(panel.keys) == 1 for panel in panels.values() if panel.kind != "number")


def test_a_new_probe_gets_a_section_and_panels_by_itself() -> None:
    keys: dict[str, Kind] = {
        "probe/whitening/noise_r2": "number",
        "probe/whitening/latent_r2": "number",
        "probe/whitening/r2_null": "number",
        "probe/whitening/gain_slope": "number",
        "probe/whitening_final/spectrum": "picture",
        "probe/whitening/residual_histogram": "histogram",
    }
    (section,) = specification(keys)
    assert section.title == "Whitening"
    assert [(panel.title, panel.kind, len(panel.keys)) for panel in section.panels] == [
        ("Spectrum", "picture", 1),
        ("R2", "number", 3),
        ("Gain slope", "number", 1),
        ("Residual", "histogram", 1),
    ]


def test_the_time_of_any_probe_joins_the_times_of_an_event() -> None:
    keys = [f"probe/timing/{name}_seconds" for name in ("event", "inversion_angles", "my_own_probe", "whitening")]
    assert panel_of(keys[2], keys) == ("Training", panel_of(keys[0], keys)[1])
    assert panel_of(keys[2], keys)[1].keys == tuple(keys)
    assert specification({"probe/my_own_probe/num_images": "number"}) == []


def test_features_join_the_curves_of_similarity_and_a_null_its_quantity() -> None:
    similarity = [f"probe/checkpoint_similarity_final/{name}" for name in ("cka", "dino_cosine")]
    assert panel_of(similarity[1], similarity)[1].keys == tuple(similarity)
    quality = [f"probe/sample_quality/{name}" for name in ("dino_fid", "dino_fid_null", "clip_fid", "num_real")]
    assert panel_of(quality[0], quality) == ("Quality", panel_of(quality[1], quality)[1])
    assert panel_of(quality[2], quality)[1].keys == (quality[2],)
    shown = [key for panel in all_panels(specification(dict.fromkeys(quality, "number"))) for key in panel.keys]
    assert quality[3] not in shown


def test_standard_errors_have_no_panel_and_change_none() -> None:
    keys = default_keys()
    errors = dict.fromkeys((key.replace("probe/", "standard_error/", 1) for key in keys), "number")
    assert specification(keys | errors) == specification(keys)
    assert is_bookkeeping("standard_error/mine/x") and not is_bookkeeping("probe/mine/standard_error")


def test_a_panel_keeps_its_name_when_keys_join_it() -> None:
    alone = panel_of("probe/noise_image_map/hubness_null", ["probe/noise_image_map/hubness_null"])[1]
    joined = panel_of("probe/noise_image_map/hubness_null", list(default_keys()))[1]
    assert alone.name == joined.name
    assert alone.keys != joined.keys


WORDS = st.sampled_from(["noise", "image", "null", "mean", "gap", "deg", "final", "x"])
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("_".join)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.dictionaries(st.builds("probe/{}/{}".format, NAMES, NAMES), st.sampled_from(["number", "picture", "histogram"]))
)
def test_any_keys_are_in_exactly_one_panel_each_and_panels_have_names_of_their_own(keys: dict[str, Kind]) -> None:
    panels = all_panels(specification(keys))
    assert sorted(key for panel in panels for key in panel.keys) == sorted(keys)
    assert len({panel.name for panel in panels}) == len(panels)
    assert all(keys[key] == panel.kind and panel.title for panel in panels for key in panel.keys)
    json.dumps([panel.title for panel in panels])


def test_a_group_is_shared_by_seeds_only() -> None:
    config = {"seed_everything": 0, "run_dir": "a", "model": {"seed": 0, "schedule": "cosine"}, "wandb": {"name": "x"}}
    other_seed = config | {"seed_everything": 10, "run_dir": "b", "model": {"seed": 10, "schedule": "cosine"}}
    other_model = config | {"model": {"seed": 0, "schedule": "linear"}}
    assert group_of(config, "patches") == group_of(other_seed, "patches") != group_of(other_model, "patches")
    assert group_of(config, "patches").startswith("patches-")


@pytest.mark.parametrize("key", ["epoch", "trainer/global_step", "_step", "probe/pixel_correlation/k"])
def test_bookkeeping_has_no_panel(key: str) -> None:
    assert specification({key: "number"}) == []
