"""Exact denoisers that were probed with other options than the run beside which they stand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from probediff.report import geometry, latents, mapping
from probediff.report.family import exact_denoisers
from probediff.report.groups import members
from probediff.report.panels import Quantity, panel
from tests.report.synthetic import write_exact, write_probes, write_run
from tests.report.test_family import ACCURACY, compared, lines, rows_of

STANDS = "stands beside the run's own"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With exact denoisers of h = 0 and h = 0.4, and the Gaussian."""
    run = write_run(tmp_path / "run")
    write_probes(run)
    return run


def exact_of(run: Path) -> Path:
    return run / "probes" / "exact-h=0.4" / "num_steps=0100"


def write_options(path: Path, probe: str, options: dict[str, int]) -> None:
    """Into the conventions of one probe's records."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["probe"] == probe:
            record["conventions"] = record["conventions"] | {"options": options}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_level_is_of_the_options_of_the_runs_own_similarity(run: Path) -> None:
    for folder, probe, k in ((run, "checkpoint_similarity_final", 10), (exact_of(run), "network_similarity", 3)):
        write_options(folder / "records.jsonl", probe, {"num_directions": k})
    quantity = Quantity("checkpoint_similarity_final", "cka", "CKA", baseline="network_similarity")
    assert {line.mark for line in lines(panel(compared(run), quantity), "member")} == {"h = 0"}


def test_a_probe_of_other_options_does_not_stand_beside_the_runs_own(run: Path) -> None:
    for folder, k in ((run, 10), (exact_of(run), 3)):
        write_options(folder / "records.jsonl", "pixel_correlation", {"k": k} | ({"new": k} if k == 3 else {}))
    comparison = compared(run)
    header = latents.correlation(comparison).tables[0].header
    assert "exact, h = 0" in header and "exact, h = 0.4" not in header
    assert {line.mark for line in lines(panel(comparison, ACCURACY), "member")} == {"h = 0", "h = 0.4", "h = 1"}
    told = {
        row["h or kind"]: row["stands beside the run's own"] for row in rows_of(exact_denoisers(comparison).tables[0])
    }
    assert told["h = 0.4"] == "yes, but for pixel_correlation (k 3, not 10)"
    assert told["h = 0"] == "yes"


def test_the_one_with_the_options_of_the_run_stands_for_its_bandwidth(run: Path) -> None:
    few = write_exact(run, "exact-h=0.4,images=500", 8, bandwidth=0.4, fitted_to=500)
    gaussian = write_exact(run, "exact-h=1", 7, bandwidth=1.0)
    for folder, k in ((run, 10), (exact_of(run), 3), (few, 10), (gaussian, 3)):
        write_options(folder / "records.jsonl", "pixel_correlation", {"k": k})
    comparison = compared(run)
    header = latents.correlation(comparison).tables[0].header
    assert "exact, h = 0.4, M = 500" in header and "Gaussian denoiser" in header
    told = {row["folder"].split("/")[1]: row[STANDS] for row in rows_of(exact_denoisers(comparison).tables[0])}
    assert told["exact-h=0.4,images=500"] == told["gaussian"] == "yes"
    assert told["exact-h=0.4"] == told["exact-h=1"] == "another one of this h stands there"


def test_a_heat_map_of_other_options_is_not_drawn(run: Path) -> None:
    for folder, count in ((run, 101), (exact_of(run), 11)):
        write_options(folder / "records.jsonl", "trajectory_heatmap", {"num_lambdas": count})
    (own, exact) = geometry.heat_map(compared(run)).figures
    assert "h = 0:" in exact.alt and "h = 0.4" not in exact.alt
    assert own.name == "f3_heat_map"


def test_how_many_are_shown_in_a_picture_changes_no_number(run: Path) -> None:
    for folder, count in ((run, 16), (exact_of(run), 4)):
        write_options(folder / "records.jsonl", "inversion_angles", {"num_shown": count})
    assert "exact, h = 0.4" in geometry.triangle(compared(run)).tables[0].header


def test_a_lone_gaussian_stands_in_the_figures(run: Path) -> None:
    gaussian = run / "probes" / "gaussian" / "num_steps=0100"
    for folder in (run / "probes").glob("exact-*"):
        shutil.rmtree(folder)
    for folder, k in ((run, 10), (gaussian, 3)):
        write_options(folder / "records.jsonl", "pixel_correlation", {"k": k})
    comparison = compared(run)
    assert not members(comparison.groups[0]) and lines(panel(comparison, ACCURACY), "baseline")
    section = exact_denoisers(comparison)
    assert [row[STANDS] for row in rows_of(section.tables[0])] == ["yes, but for pixel_correlation (k 3, not 10)"]
    assert not any("do not stand" in words for words in section.missing)


def test_two_folders_of_one_denoiser_count_once(run: Path) -> None:
    for name in ("gaussian", "exact-h=1"):
        write_exact(run, name, 7, bandwidth=1.0)
    (table,) = mapping.settling(compared(run)).tables
    (row,) = (row for row in rows_of(table) if row["exact denoiser"] == "h = 1")
    assert row["SSIM"] == "0.37"
