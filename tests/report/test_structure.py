"""The section on a denoiser's structure: its tables are the stored numbers, beside the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probediff.report.groups import group_runs
from probediff.report.published import EXPLAINED_VARIANCE
from probediff.report.sources import read_runs
from probediff.report.structure import structure as section
from tests.report.synthetic import SIGMAS, structure_levels, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_tables_hold_what_was_measured_beside_what_was_published(run: Path) -> None:
    found = section(group_runs(read_runs([run])))
    by_level, variance = found.tables
    levels = structure_levels()
    rows = [dict(zip(by_level.header, row, strict=True)) for row in by_level.rows]
    assert [row["images"] for row in rows] == ["training"] * len(SIGMAS) + ["held out"] * len(SIGMAS)
    assert str(rows[0]["R² of the truth"]) == f"{levels['levels_r2'][0]:.3f} ± {levels['levels_r2_error'][0]:.3f}"
    assert str(rows[1]["nearest h"]) == f"{levels['levels_bandwidth'][1]:.3f}"
    assert rows[-1]["nearest h"] is None
    assert str(rows[2]["gap of R² beyond the Gaussian's"]).startswith(f"{levels['levels_gap_excess'][2]:.3f}")
    rows = [dict(zip(variance.header, row, strict=True)) for row in variance.rows]
    assert [row["published score, epoch 200"] for row in rows][:2] == ["0.828 / 0.239", "0.863 / 0.558"]
    assert rows[-1]["published image, epoch 5000"] == "0.954 / 0.952"
    assert len(rows) == len(SIGMAS) and str(rows[0]["σ"]) == "0.101"
    assert "Wang & Vastola" in variance.caption and "not of the data" not in variance.caption
    assert [figure.name for figure in found.figures] == [
        "structure_by_level_1",
        "structure_1",
        "structure_over_training",
    ]
    assert not found.missing
    assert "R² of the truth, standard error" in by_level.csv() and "$\\sigma$ & " in by_level.latex()
    titles = [axis.get_title() for axis in found.figures[0].drawing.axes]
    assert titles[0] == "nearest exact denoiser" and "memorisation beyond the Gaussian" in titles


def test_the_published_table_is_whole() -> None:
    columns = [values for of in EXPLAINED_VARIANCE.values() for values in of.values()]
    assert len(columns) == 4 and all(len(values) == 9 for values in columns)
    # Far from the noise the Gaussian is the nearer one; in much of it the two are alike.
    assert all(values[sigma][0] > values[sigma][1] for values in columns for sigma in (0.1, 0.5, 1.0, 2.0, 5.0))
    assert all(abs(values[40.0][0] - values[40.0][1]) < 0.01 for values in columns)


@pytest.mark.parametrize("damage", ["none", "a column less", "another length", "two dimensions", "nan"])
def test_what_is_not_whole_is_said(run: Path, damage: str) -> None:
    for path in (run / "samples").glob("*.denoiser_structure.safetensors"):
        arrays = load_file(path)
        if damage == "none":
            path.unlink()
            continue
        if damage == "a column less":
            del arrays["levels_r2"]
        elif damage == "another length":
            arrays["levels_r2"] = arrays["levels_r2"][:3]
        elif damage == "two dimensions":
            arrays = {name: array[None] for name, array in arrays.items()}
        else:
            arrays = {name: torch.full_like(a, torch.nan) for name, a in arrays.items()} | {
                name: arrays[name] for name in ("levels_held_out", "levels_sigma")
            }
        save_file({name: array.contiguous() for name, array in arrays.items()}, path)
    found = section(group_runs(read_runs([run])))
    assert found.figures, "curves over training need the records only"
    if damage == "nan":
        assert all(cell is None or isinstance(cell, str) for row in found.tables[0].rows for cell in row)
    else:
        assert not found.tables
        assert found.missing == ("run: the table of noise levels of denoiser_structure is not there, or is of another "
                                 "version.",)  # fmt: skip


def test_runs_without_the_probe_say_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", probes=("training",))
    for path in (run / "samples").glob("*.denoiser_structure.safetensors"):
        path.unlink()
    found = section(group_runs(read_runs([run])))
    assert found.is_empty and found.missing == ("No run has records of denoiser_structure.",)
