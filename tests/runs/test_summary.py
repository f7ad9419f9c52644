"""Plain-text tables, and what a run says at its end."""

from __future__ import annotations

from pathlib import Path

from probediff.runs.descriptions import Column, Description
from probediff.runs.folder import RunFolder
from probediff.runs.summary import format_table, probe_tables, run_summary


def test_tables_have_a_line_a_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append(
        {"step": 10, "probe": "a", "values": {"x": 0.123456, "n": 20.0}},
        {"step": 0, "probe": "a", "values": {"x": None}},
        {"step": 0, "probe": "b", "values": {"y": 1.0}},
    )
    lines = probe_tables(folder).splitlines()
    assert lines[0] == "a"
    assert lines[1].split() == ["step", "x", "n"]
    assert lines[3].split() == ["0", "-", "-"]
    assert lines[4].split() == ["10", "0.1235", "20"]
    assert lines[6] == "b"
    assert format_table(["a", "bb"], [[1, 2]]) == "a  bb\n-  --\n1   2"
    assert format_table(["aa", "bb"], [[1, 2]], num_left=1) == "aa  bb\n--  --\n1    2"


def test_a_number_has_its_standard_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    values = {"x": 0.78812, "large": 12345.6, "exact": 20.0, "plain": 0.123456, "undefined": None, "few": 1.5}
    errors = {"x": 0.0123, "large": 123.0, "exact": 0.0, "undefined": 0.1, "few": None}
    folder.append(
        {"step": 0, "probe": "a", "values": values},
        {"step": 10, "probe": "a", "values": values, "standard_errors": errors},
    )
    header, _, first, second = probe_tables(folder).splitlines()[1:]
    assert header.split() == ["step", *values]
    assert first.split() == ["0", "0.7881", "1.235e+04", "20", "0.1235", "-", "1.5"]
    assert second.split() == ["10", "0.788±0.012", "12350±120", "20±0", "0.1235", "-", "1.5"]
    assert len(header) == len(first) == len(second)


def test_the_catalogue_chooses_columns_and_leaves_bookkeeping_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    angles = {key: 1.0 for key in ("latent_std", "at_noise_std_deg", "at_image_mean_deg")}
    folder.append(
        {"step": 0, "probe": "pass", "values": {"network_evaluations": 8.0}},
        {"step": 0, "probe": "inversion_angles", "values": angles},
        {"step": 0, "probe": "timing", "values": {"event_seconds": 2.0, "pass_seconds": 1.0}},
        {"step": 0, "probe": "mine", "values": {f"v{k}": 1.0 for k in range(12)}},
        {"step": 0, "probe": "run", "values": {"last_step": 0.0}},
    )
    tables = {table.splitlines()[0]: table.splitlines()[1].split() for table in probe_tables(folder).split("\n\n")}
    assert list(tables) == ["inversion_angles", "timing", "mine"]
    assert {"latent_std", "at_image_mean_deg"} < set(tables["inversion_angles"])
    assert "at_noise_std_deg" not in tables["inversion_angles"]
    assert tables["timing"] == ["step", "pass_seconds"]
    assert tables["mine"] == ["step", *(f"v{k}" for k in range(8))]
    folder.save_catalogue([Description("mine", "Mine", columns=(Column("v9", in_table=True),))])
    assert "mine\nstep  v9\n" in probe_tables(folder)


def test_the_summary_says_where_everything_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append({"step": 0, "probe": "a", "values": {"x": 1.0}})
    summary = run_summary(folder)
    for place in ("pictures", "records.jsonl", "checkpoints"):
        assert str(tmp_path / place) in summary
    assert "leet" not in summary
    (tmp_path / "wandb").mkdir()
    assert "wandb leet" in run_summary(folder)
