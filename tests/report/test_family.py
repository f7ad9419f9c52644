"""Exact denoisers beside the runs' own figures: bands, columns, and what is left out with its reason."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probediff.report import geometry, latents, mapping
from probediff.report.analyses import find_analyses
from probediff.report.curves import draw
from probediff.report.family import exact_denoisers
from probediff.report.groups import Comparison, group_runs, members
from probediff.report.panels import Line, Panel, Quantity, panel
from probediff.report.sources import read_runs
from probediff.report.whitening import whitening
from tests.report.synthetic import values_of, write_exact, write_probes, write_run

ACCURACY = Quantity("assignment_accuracy", "noise_to_image", "noise → sample", scale=100)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With exact denoisers of h = 0 and h = 0.4, and the Gaussian."""
    run = write_run(tmp_path / "run")
    write_probes(run)
    return run


def compared(*runs: Path) -> Comparison:
    return group_runs(read_runs(list(runs)))


def rows_of(table: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


def accuracy(offset: float) -> float:
    return 100 * float(values_of("assignment_accuracy", 0, offset)["noise_to_image"] or 0)


def lines(panel: Panel, role: str) -> list[Line]:
    return [line for line in panel.lines if line.role == role]


def test_a_band_holds_all_bandwidths_and_each_has_its_line(run: Path) -> None:
    shown = panel(compared(run), ACCURACY)
    (band,) = lines(shown, "band")
    levels = {0.0: accuracy(-4), 0.4: accuracy(3), 1.0: accuracy(5)}
    assert band.label == "exact denoisers, h = 0 to 1"
    ends = band.points[-1] - band.half_width[-1], band.points[-1] + band.half_width[-1]
    assert ends == pytest.approx((min(levels.values()), max(levels.values())))
    assert {line.mark: line.points[-1] for line in lines(shown, "member")} == pytest.approx(
        {f"h = {h:g}": level for h, level in levels.items()}
    )
    (gaussian,) = lines(shown, "baseline")
    assert gaussian.points == pytest.approx({-1: levels[1.0]})
    axis = draw([shown]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["h = 0", "h = 0.4", "h = 1"]
    heights = [text.get_position()[1] for text in axis.texts]
    assert np.diff(heights).min() > 0.05
    legend = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert legend.count("exact denoisers, h = 0 to 1") == 1


@pytest.mark.parametrize(
    "options",
    [{"num_samples": 40}, {"num_steps": 10}, {"convention": "diffusers"}, {"clip": False}, {"images": "mine"}],
)
def test_what_was_made_otherwise_stands_in_no_band_and_is_told(run: Path, options: dict[str, Any]) -> None:
    write_exact(run, "exact-h=0.6", 50, bandwidth=0.6, **options)
    comparison = compared(run)
    assert {line.mark for line in lines(panel(comparison, ACCURACY), "member")} == {"h = 0", "h = 0.4", "h = 1"}
    section = exact_denoisers(comparison)
    assert section.missing[0].startswith("1 of 4 folders of exact denoisers do not stand in the figures")
    (row,) = (row for row in rows_of(section.tables[0]) if row["h or kind"] == "h = 0.6")
    (value,) = options.values()
    shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    assert str(shown) in row["stands beside the run's own"] or str(value) in row["stands beside the run's own"]


def test_no_gaussian_stands_beside_a_run_of_other_settings(run: Path) -> None:
    """Top correlations, assignments and similarities depend on the number of samples."""
    shutil.rmtree(run / "probes")
    write_exact(run, "gaussian", 5, denoiser="gaussian", num_samples=10)
    write_exact(run, "gaussian-images", 5, 10, denoiser="gaussian", images="mine")
    comparison = compared(run)
    assert not lines(panel(comparison, ACCURACY), "baseline")
    assert latents.correlation(comparison).tables[0].header[:2] == ("", "run")
    (table,) = mapping.assignment_table(comparison).tables
    # Assignments of another N have a row of their own.
    (column,) = (column for column in table.header if "Gaussian" in column and "noise → sample" in column)
    with_gaussian = {row["DDIM steps, N"]: row["run: noise → sample"] for row in rows_of(table) if row[column]}
    assert with_gaussian == {"100, 10": ""}
    told = [row["stands beside the run's own"] for row in rows_of(exact_denoisers(comparison).tables[0])]
    assert told == ["N 10, not 20", "DDIM steps 10, not 100; inverted mine, not own samples"]
    write_exact(run, "exact-h=1", 7, bandwidth=1.0)
    assert [line.points for line in lines(panel(compared(run), ACCURACY), "baseline")] == [
        pytest.approx({-1: accuracy(7)})
    ]


def test_of_one_bandwidth_the_one_of_most_images_stands_for_all(run: Path) -> None:
    write_exact(run, "exact-h=0.4,images=500", 50, bandwidth=0.4, fitted_to=500)
    write_exact(run, "exact-h=0.2,images=500", 2, bandwidth=0.2, fitted_to=500)
    comparison = compared(run)
    found = {member.kind: member.label for member in members(comparison.groups[0])}
    assert "exact-h=0.4,images=500" not in found
    assert found["exact-h=0.2,images=500"] == "h = 0.2, M = 500"
    told = {row["folder"]: row["stands beside the run's own"] for row in rows_of(exact_denoisers(comparison).tables[0])}
    assert told["run/exact-h=0.4,images=500/num_steps=0100"] == "another one of this h stands there"
    assert told["run/exact-h=0.4/num_steps=0100"] == "yes"


def test_another_kind_is_a_line_and_no_part_of_the_band(run: Path) -> None:
    write_exact(run, "exact-nearest", 90, denoiser="nearest")
    shown = panel(compared(run), ACCURACY)
    (band,) = lines(shown, "band")
    assert band.points[-1] + band.half_width[-1] < accuracy(90)
    assert "nearest" in {line.mark for line in lines(shown, "member")}


def test_exact_h_1_is_the_gaussian_where_there_is_no_other(run: Path) -> None:
    shutil.rmtree(run / "probes" / "gaussian")
    write_exact(run, "exact-h=1", 7, bandwidth=1.0)
    shown = panel(compared(run), ACCURACY)
    assert [line.points for line in lines(shown, "baseline")] == [pytest.approx({-1: accuracy(7)})]
    assert "h = 1" in {line.mark for line in lines(shown, "member")}


def test_tables_have_a_column_for_each(run: Path) -> None:
    write_exact(run, "exact-h=0.4", 6, num_steps=10, bandwidth=0.4)
    comparison = compared(run)
    (table,) = latents.correlation(comparison).tables
    latent = next(row for row in rows_of(table) if row[""] == "latent")
    assert float(latent["exact, h = 0.4"]) == pytest.approx(float(values_of("pixel_correlation", 0, 3)["latent"] or 0))
    by_steps = {row["DDIM steps"]: row for row in rows_of(mapping.assignment_table(comparison).tables[0])}
    column = "exact, h = 0.4: noise → sample"
    assert float(by_steps["100"][column]) == pytest.approx(accuracy(3))
    assert float(by_steps["10"][column]) == pytest.approx(accuracy(6))
    assert "exact, h = 0" in geometry.triangle(comparison).tables[0].header
    section = geometry.heat_map(comparison)
    assert [figure.name for figure in section.figures] == ["f3_heat_map", "f3_exact"]
    assert {"exact, h = 0", "exact, h = 0.4"} <= set(section.tables[0].header)


def test_similarity_to_the_network_is_a_level_of_the_final_samples_only(run: Path) -> None:
    gaussian = run / "probes" / "gaussian" / "num_steps=0100" / "records.jsonl"
    record = json.loads(gaussian.read_text().splitlines()[0])
    values = {"cka": 0.9, "final_step": 1000.0}
    with gaussian.open("a") as file:
        file.write(json.dumps(record | {"probe": "network_similarity", "values": values}) + "\n")
    quantity = Quantity("checkpoint_similarity_final", "cka", "CKA", baseline="network_similarity")
    shown = panel(compared(run), quantity)
    assert [line.points for line in lines(shown, "baseline")] == [{-1: 0.9}]
    assert {line.mark: line.points[-1] for line in lines(shown, "member")} == pytest.approx(
        {"h = 0": 0.76, "h = 0.4": 0.83, "h = 1": 0.9}
    )
    # The run went on: these are not its final samples any more.
    records = run / "records.jsonl"
    records.write_text(records.read_text().replace('"final_step": 1000.0', '"final_step": 2000.0'))
    assert not lines(panel(compared(run), quantity), "member")


def test_similarity_to_the_network_is_shown_where_the_run_has_none_of_its_own(run: Path) -> None:
    records = run / "records.jsonl"
    kept = [line for line in records.read_text().splitlines() if "checkpoint_similarity" not in line]
    record = json.loads(kept[0])
    event = {"step": 1000, "probe": "timing", "values": {}, "weights_sha256": "a"}
    records.write_text("\n".join([*kept, json.dumps(record | event)]) + "\n")
    # Of fewer noises R² is the same on average.
    few = write_exact(run, "exact-nearest", 7, denoiser="nearest", num_samples=10) / "records.jsonl"
    few.write_text(few.read_text().replace('"ssim"', '"r2": -0.5, "r2_null": -2.5, "ssim"'))
    (table,) = mapping.settling(compared(run)).tables
    shown = {row["exact denoiser"]: (row["R²"], row["N"], row["SSIM"]) for row in rows_of(table)}
    assert shown["nearest"] == ("-0.5", "10", "0.37")
    assert set(shown) == {"nearest", "h = 0", "h = 0.4"}
    # Of a run that was trained again, to the same step, these are not the final samples.
    few.write_text(few.read_text().replace('"network_similarity"', '"network_similarity", "final_weights_sha256": "b"'))
    assert len(rows_of(mapping.settling(compared(run)).tables[0])) == 2
    # A damaged digest is another one.
    few.write_text(few.read_text().replace('"final_weights_sha256": "b"', '"final_weights_sha256": ["a"]'))
    assert len(rows_of(mapping.settling(compared(run)).tables[0])) == 2


def test_a_replay_of_another_n_has_a_row_of_its_own_and_one_of_other_settings_none(run: Path) -> None:
    def has_numbers(rows: list[dict[str, str]], header: str = "DDIM steps") -> dict[str, bool]:
        return {row[header]: bool(row["run: noise → sample"]) for row in rows}

    section = mapping.assignment_table(compared(run))
    every = {row["DDIM steps"] for row in rows_of(section.tables[0])}
    assert has_numbers(rows_of(section.tables[0])) == dict.fromkeys(every, False) | {
        steps: True for steps in ("10", "100", "1000")
    }
    replay = run / "probes" / "replay" / "num_steps=0010" / "records.jsonl"
    replay.write_text(replay.read_text().replace('"num_samples": 20', '"num_samples": 5'))
    section = mapping.assignment_table(compared(run))
    found = has_numbers(rows_of(section.tables[0]), "DDIM steps, N")
    assert found["10, 5"] and found["100, 20"] and "10, 20" not in found
    assert section.missing == ()
    replay.write_text(replay.read_text().replace('"clip": true', '"clip": false'))
    section = mapping.assignment_table(compared(run))
    assert not has_numbers(rows_of(section.tables[0]))["10"]
    assert section.missing == ("run/replay/num_steps=0010 is left out: clip False, not True.",)


def test_one_that_passes_over_images_says_so_and_gives_way_to_one_that_does_not(run: Path) -> None:
    write_exact(run, "exact-h=0.6,dropped_weight=0.9", 9, bandwidth=0.6, dropped_weight=0.9)
    (group,) = compared(run).groups
    assert "h = 0.6, dropped_weight = 0.9" in {member.label for member in members(group)}
    write_exact(run, "exact-h=0.6,images=50000", 8, bandwidth=0.6)
    (group,) = compared(run).groups
    assert [member.label for member in members(group)] == ["h = 0", "h = 0.4", "h = 0.6", "h = 1"]


def test_without_any_the_command_is_told_once(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "run", files=False))
    section = exact_denoisers(comparison)
    assert section.is_empty and len(section.missing) == 1
    assert "`probediff probe exact:RUN,h=0.4`" in section.missing[0]
    assert not lines(panel(comparison, ACCURACY), "member") and not members(comparison.groups[0])


def test_runs_of_a_group_share_their_lines_and_groups_have_their_own(tmp_path: Path) -> None:
    seeds = [write_run(tmp_path / f"seed{seed}", seed, files=False) for seed in (0, 1)]
    for seed, run in enumerate(seeds):
        write_exact(run, "exact-h=0.4", 2 * seed, bandwidth=0.4)
    (line,) = lines(panel(compared(*seeds), ACCURACY), "member")
    assert line.points[-1] == pytest.approx((accuracy(0) + accuracy(2)) / 2)
    assert (line.label, line.mark) == ("exact denoisers", "h = 0.4")
    config = seeds[1] / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.0001", "learning_rate: 0.1"))
    apart = lines(panel(compared(*seeds), ACCURACY), "member")
    assert [line.points[-1] for line in apart] == pytest.approx([accuracy(0), accuracy(2)])
    assert [line.colour for line in apart] == [0, 1]


def test_inversions_of_exact_denoisers_have_rows_of_their_own(run: Path) -> None:
    folder = run / "probes" / "exact-h=0.4" / "inversions" / "num_steps=0010"
    folder.mkdir(parents=True)
    (folder / "inversion_methods.json").write_text(json.dumps([{"name": "ddim", "reconstruction_l2": 7.0}]))
    rows = {row["method"]: row for row in rows_of(latents.inversion_methods(compared(run)).tables[0])}
    assert float(rows["ddim num_steps=0010"]["reconstruction l2"]) == 3
    assert float(rows["ddim exact-h=0.4 num_steps=0010"]["reconstruction l2"]) == 7


def test_analyses_of_exact_denoisers_stand_beside_that_of_the_network(run: Path) -> None:
    """Of the same iterations and images; another one is shown by itself."""
    network = json.loads((run / "probes" / "whitening" / "whitening.json").read_text())
    network["conventions"] |= {"denoiser": "network"}
    (run / "probes" / "whitening" / "whitening.json").write_text(json.dumps(network))
    for h, tolerance in ((0.4, 0.0), (0.0, 0.0), (0.7, 0.5)):
        folder = run / "probes" / f"exact-h={h:g}" / "whitening"
        folder.mkdir(parents=True)
        said = {"denoiser": "smoothed_empirical", "bandwidth": h, "tolerance": tolerance}
        made = network | {"conventions": network["conventions"] | said}
        (folder / "whitening.json").write_text(json.dumps(made))
    comparison = compared(run)
    found = {analysis.name: list(analysis.exact) for analysis in find_analyses(comparison)}
    assert found == {"run": ["h = 0", "h = 0.4"], "run, exact-h=0.7": []}
    section = whitening(comparison)
    assert not [words for words in section.missing if "damaged" in words]
    figure = next(figure for figure in section.figures if figure.name == "p2_slopes_1")
    assert [text.get_text() for text in figure.drawing.axes[0].texts[:2]] == ["h = 0", "h = 0.4"]
    tables = {table.name: table for table in section.tables}
    assert "exact, h = 0.4: slope" in tables["p2_slopes_1"].header
    relation = rows_of(tables["p2_relation_1"])
    assert relation[1]["paired, exact, h = 0.4"] == relation[1]["paired"]
