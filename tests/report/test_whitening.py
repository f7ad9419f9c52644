"""The section on de-whitening: from real results of the command, and what it says where there are none."""

from __future__ import annotations

import csv
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probediff.commands.report import report
from probediff.commands.whitening import whitening
from probediff.report.groups import Estimate, group_runs
from probediff.report.sources import read_runs
from probediff.report.whitening import whitening as section
from tests.report.synthetic import conventions, write_run, write_whitening

OPTIONS = ["--iterations", "1,5", "--num_steps", "4,8", "--num_samples", "20", "--num_shown", "3", "--ridge", "1e-2"]


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic run with the results of the command on a tiny one, and records of the probe."""
    folder = write_run(tmp_path_factory.mktemp("report") / "run", probes=("training",), files=False)
    made = ["--num_fixed_points", "80", "--device", "cpu", *OPTIONS]
    assert whitening([str(tiny_run), *made, "--out", str(folder / "probes" / "whitening")]) == 0
    gaussian = ["--denoiser", "gaussian", "--out", str(folder / "probes" / "whitening_gaussian")]
    assert whitening([str(tiny_run), *made, *gaussian]) == 0
    with (folder / "records.jsonl").open("a") as file:
        for step in (0, 10, 1000):
            values = {"slope": -step / 2000, "zca_r2_scaled": step / 2000, "slope_gaussian": -0.1}
            record = {"step": step, "probe": "whitening", "values": values, "conventions": conventions()}
            file.write(json.dumps(record) + "\n")
    return folder


def test_figures_and_tables(run: Path, tmp_path: Path) -> None:
    assert report([str(run), "--out", str(tmp_path)]) == 0
    names = {path.stem for path in (tmp_path / "figures").glob("p2_*.png")}
    stems = ("slopes", "f2_averages", "f2_cross_correlation", "f3_fixed_points", "f4_zca", "f5_whitened_covariance",
             "f5_fit")  # fmt: skip
    assert names == {f"p2_{stem}_{index}" for stem in stems for index in (1, 2)} | {"p2_over_training"}
    with (tmp_path / "tables" / "p2_transforms_1.csv").open() as file:
        rows = {row["W"]: row for row in csv.DictReader(file)}
    published = {name: (row["published 2-norm (P2)"], row["published Frobenius (P2)"]) for name, row in rows.items()}
    assert published["ZCA"] == ("3.8305", "136.6")
    assert published["PCA"] == ("7.8795", "434.2") and published["Cholesky"] == ("4.8027", "204.6")
    assert published["ZCA-cor"] == ("", "")
    values = json.loads((run / "probes" / "whitening" / "whitening.json").read_text())
    zca = next(row for row in values["transforms"] if row["name"] == "zca")
    assert float(rows["ZCA"]["Frobenius norm"]) == zca["frobenius"]
    page = (tmp_path / "index.html").read_text()
    assert values["in_words"].split(":")[0] in page
    assert "timestep 39 of 40" in page and "noises of 80 images" in page


def test_the_curves_hold_the_numbers_of_the_file(run: Path) -> None:
    found = section(group_runs(read_runs([run])))
    for index, folder, who in ((1, "whitening", "model"), (2, "whitening_gaussian", "gaussian")):
        figure = next(figure for figure in found.figures if figure.name == f"p2_slopes_{index}")
        upper, _, lower, _ = figure.drawing.axes
        rows = json.loads((run / "probes" / folder / "whitening.json").read_text())["first_step"]
        known = [row["model"]["significant_share"] >= 0.5 for row in rows]
        # The noises of the untrained network do not follow 80 images in most directions; the Gaussian's do.
        assert known == [index == 2] * 2
        slopes = [row[who]["slope"] if trusted else math.nan for row, trusted in zip(rows, known, strict=True)]
        np.testing.assert_array_equal(upper.get_lines()[0].get_ydata(), slopes)
        np.testing.assert_array_equal(lower.get_lines()[0].get_ydata(), [row[who]["zca_r2_scaled"] for row in rows])
        assert list(lower.get_lines()[0].get_xdata()) == [1, 5]
    assert [line.get_ydata()[0] for line in upper.get_lines()[1:]] == [-0.5, -1.0]
    assert not found.missing


def test_tables_hold_the_standard_errors_of_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", files=False)
    write_whitening(run / "probes" / "whitening")
    path = run / "probes" / "whitening" / "whitening.json"
    values = json.loads(path.read_text())
    points = [
        point[part] for key in ("first_step", "full_map") for point in values[key] for part in ("model", "gaussian")
    ]
    parts = [*points, *values["transforms"], values["relation"]]
    for part in parts:
        part.pop("standard_errors", None)
    path.write_text(json.dumps(values))
    without = {table.name: table for table in section(group_runs(read_runs([run]))).tables}
    assert not any("±" in table.markdown() or "standard error" in table.csv() for table in without.values())
    for part in parts:
        part["standard_errors"] = {"slope": 0.0123, "mse": 0.0456, "paired_l2": 0.789, "damaged": "x"}
    path.write_text(json.dumps(values))
    tables = {table.name: table for table in section(group_runs(read_runs([run]))).tables}
    first = values["first_step"][0]["gaussian"]
    (slope,) = (cell for cell in tables["p2_slopes_1"].rows[0] if isinstance(cell, Estimate))
    assert (slope.mean, slope.error, str(slope)) == (first["slope"], 0.0123, f"{first['slope']:z.3f} ± 0.012")
    assert "Gaussian denoiser: slope, standard error" in tables["p2_slopes_1"].csv()
    assert f"{values['transforms'][0]['mse']:.3f} ± 0.046" in tables["p2_transforms_1"].markdown()
    assert f"{values['relation']['paired_l2']:.2f} ± 0.79" in tables["p2_relation_1"].markdown()
    for name, over in (("slopes", "images"), ("transforms", "images"), ("relation", "noises")):
        words = f" ± is the standard error over fresh {over}, as many as were analysed."
        assert tables[f"p2_{name}_1"].caption == without[f"p2_{name}_1"].caption + words


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    bare = section(group_runs(read_runs([write_run(tmp_path / "bare", files=False)])))
    assert bare.is_empty and not bare.text
    assert bare.missing == (
        "No analysis of `probediff whitening` in bare.",
        "No run has records of whitening.",
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"in_words": "x"}', '{"in_words": "x", "conventions": {}}'])
def test_damaged_and_old_files_do_not_stop_the_report(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run", files=False)
    (run / "probes" / "whitening").mkdir(parents=True)
    (run / "probes" / "whitening" / "whitening.json").write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        found: Any = section(group_runs(read_runs([run])))
    assert found.is_empty
    said = [*(str(warning.message) for warning in caught), *found.missing]
    assert f"{run / 'probes' / 'whitening' / 'whitening.json'} is " in said[0]
