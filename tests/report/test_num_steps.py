"""Numbers against the number of DDIM steps, of networks and of exact denoisers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from probediff.report.groups import group_runs
from probediff.report.num_steps import by_num_steps
from probediff.report.parts import Section
from probediff.report.sources import read_runs
from tests.report.synthetic import values_of, write_exact, write_probes, write_run

NOISES = "T2: noise → sample [%]"


def section_of(*runs: Path) -> Section:
    return by_num_steps(group_runs(read_runs(list(runs))))


def rows_of(section: Section) -> dict[tuple[str, ...], dict[str, str]]:
    """By model, N and steps."""
    rows = csv.DictReader(io.StringIO(section.tables[0].csv()))
    return {(row["model"], row["N"], row["DDIM steps"]): row for row in rows}


def accuracy(step: int, offset: float) -> float:
    return 100 * float(values_of("assignment_accuracy", step, offset)["noise_to_image"] or 0)


def test_every_model_has_a_row_for_each_number_of_steps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_probes(run)
    write_exact(run, "exact-h=0.4", 7, num_steps=10, bandwidth=0.4)
    write_exact(run, "exact-h=0.6", 7, num_steps=10, bandwidth=0.6, clip=False)
    section = section_of(run)
    rows = rows_of(section)
    assert {steps for model, _, steps in rows if model == "run"} == {"10", "100", "1000"}
    assert {steps for model, _, steps in rows if model == "exact, h = 0.4, M = 50,000"} == {"10", "100"}
    # Made with another clipping.
    assert not any("0.6" in model for model, _, _ in rows)
    expected = {("run", "10"): accuracy(1000, -3), ("run", "100"): accuracy(1000, 0)}
    expected |= {("exact, h = 0.4, M = 50,000", "10"): accuracy(0, 7)}
    for (model, steps), value in expected.items():
        assert float(rows[model, "20", steps][NOISES]) == pytest.approx(value)
    # What a replay did not measure is no number of the run.
    assert rows["run", "20", "10"]["null"] == ""
    (figure,) = section.figures
    axes = [axis for axis in figure.drawing.axes if axis.get_title()]
    assert {axis.get_xlabel() for axis in axes} == {"DDIM steps (logarithmic)"}
    titles = [axis.get_title() for axis in axes]
    assert "T2: noise → sample [%]" in titles and "null" not in titles


def test_a_replay_with_errors_stands_for_the_runs_own_records(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_probes(run)
    again = run / "probes/replay/num_steps=0010/records.jsonl"
    lines = [json.loads(line) for line in again.read_text().splitlines()]
    for line in lines:
        line["conventions"]["num_steps"] = 100
        line["standard_errors"] = {"noise_to_image": 0.03} if line["probe"] == "assignment_accuracy" else {}
    again.write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = rows_of(section_of(run))["run", "20", "100"]
    assert float(row[NOISES]) == pytest.approx(accuracy(1000, -3))
    assert float(row[f"{NOISES}, standard error"]) == pytest.approx(3.0)


def test_another_n_has_rows_of_its_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for num_steps in (10, 1000):
        write_exact(run, "exact-h=0.4", 7, num_steps=num_steps, bandwidth=0.4, num_samples=40)
    rows = rows_of(section_of(run))
    assert {key[1:] for key in rows if "0.4" in key[0]} == {("40", "10"), ("40", "1000")}


def test_one_number_of_steps_says_how_to_get_more(tmp_path: Path) -> None:
    section = section_of(write_run(tmp_path / "run"))
    assert not section.tables and "--num_steps 10,100,1000" in section.missing[0]


def test_seeds_are_averaged(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"seed{seed}", seed) for seed in (0, 1)]
    for run in runs:
        write_probes(run)
    (key,) = (key for key in rows_of(section_of(*runs)) if key[2] == "10" and "exact" not in key[0])
    assert float(rows_of(section_of(*runs))[key][NOISES]) == pytest.approx(accuracy(1000, -3))
