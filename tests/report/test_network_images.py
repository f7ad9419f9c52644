"""The section on what predicts the network's images: the numbers of the file, and what it says without one."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probediff.commands.compare import compare
from probediff.commands.report import report
from probediff.report.groups import group_runs
from probediff.report.network_images import network_images
from probediff.report.parts import Section
from probediff.report.sources import read_runs
from tests.report.synthetic import STEPS, comparison_mean, write_comparison, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run", files=False, probes=("training",))
    write_comparison(folder / "probes" / "compare")
    return folder


def section(run: Path) -> Section:
    return network_images(group_runs(read_runs([run])))


def test_a_line_for_each_denoiser_and_the_numbers_of_the_last_step(run: Path) -> None:
    found = section(run)
    (figure,), (table,) = found.figures, found.tables
    (axis,) = figure.drawing.axes
    lines = {handle.get_text() for handle in figure.drawing.legends[0].get_texts()}
    assert {"local, M = 102", "another seed (ceiling)", "own final samples"} <= lines and len(lines) == 9
    drawn = [np.asarray(line.get_ydata()) for line in axis.get_lines()]
    assert [len(values) for values in drawn] == [len(STEPS)] * 9
    # pca_locality, the best one, comes first.
    assert drawn[0].tolist() == pytest.approx([0.6 - 1 / (1 + step) for step in STEPS])
    assert [row[0] for row in table.rows][:2] == ["pca_locality", "optimal"]
    assert [row[0] for row in table.rows][-2:] == ["another seed (ceiling)", "own final samples"]
    assert [str(cell) for cell in table.rows[0][1:]] == [
        *("106", "1000", "0.599 ± 0.020", "-0.500 ± 0.030", "0.400", "0.300 ± 0.004", "0.010", "0.07"),
    ]
    how = "Runs: seed0, seed1. N = 20, 100 DDIM steps, convention openai, clipping on, noise seed 420."
    assert how in table.caption and how in figure.caption
    assert not found.missing


def test_the_result_of_the_command_is_shown(tiny_run: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", files=False, probes=("training",))
    out = run / "probes" / "compare"
    assert compare([str(tiny_run), "--device", "cpu", "--denoisers", "h=1,nearest,images=50", "--out", str(out)]) == 0
    assert report([str(run), "--out", str(tmp_path / "page")]) == 0
    with (tmp_path / "page" / "tables" / "network_images_1.csv").open() as file:
        rows = {row["predictor"]: row for row in csv.DictReader(file)}
    means: list[dict[str, Any]] = json.loads((out / "compare.json").read_text())["means"]
    for name, count in (("h=1", "1797"), ("nearest", "50")):
        (mean,) = (m for m in means if (m.get("denoiser"), m["step"]) == (name, 4))
        assert (rows[name]["images M"], rows[name]["step"]) == (count, "4")
        assert float(rows[name]["R²"]) == mean["values"]["r2"]
        assert float(rows[name]["R², standard error"]) == mean["standard_errors"]["r2"]
    assert (tmp_path / "page" / "figures" / "network_images_1.png").exists()


def test_one_step_has_no_figure_and_what_was_left_out_is_said(run: Path) -> None:
    path = run / "probes" / "compare" / "compare.json"
    content = json.loads(path.read_text())
    mean = comparison_mean(5, None, predictor="denoiser", denoiser="h=1", images=9)
    path.write_text(json.dumps(content | {"means": [mean], "left_out": ["step 7 of a is left out: gone"]}))
    found = section(run)
    assert not found.figures and found.missing == ("step 7 of a is left out: gone",)
    assert [str(cell) for cell in found.tables[0].rows[0][:4]] == ["h=1", "9", "5", "None"]


def test_nothing_there_is_said(tmp_path: Path) -> None:
    found = section(write_run(tmp_path / "bare", files=False))
    assert found.is_empty and not found.text
    assert found.missing == (
        "No comparison of exact denoisers with the networks' images: `probediff compare RUN` makes one.",
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"means": 3}', '{"means": []}', '{"means": [{"predictor": "a"}]}'])
def test_damaged_files_do_not_stop_the_report(run: Path, text: str) -> None:
    path = run / "probes" / "compare" / "compare.json"
    path.write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        found = section(run)
    assert found.is_empty
    assert f"{path} is left out" in [*(str(warning.message) for warning in caught), *found.missing][0]
