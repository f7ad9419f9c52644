"""``probediff inversions``: the table from the command line."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from probediff.commands.inversions import Table, inversions, settings_by_name
from probediff.inversion import InversionSettings, Method, MethodRow
from probediff.inversion.compare import options_of


def table(run: Path, out: Path, *options: str) -> dict[str, dict[str, float]]:
    common = ["--num_samples", "6", "--num_steps", "8", "--device", "cpu", "--out", str(out)]
    assert inversions([str(run), *common, *options]) == 0
    return {row["name"]: row for row in json.loads((out / "num_steps=0008" / "inversion_methods.json").read_text())}


def test_the_table_of_all_methods(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(tiny_run, tmp_path)
    assert list(rows) == list(get_args(Method))
    printed = capsys.readouterr().out
    for name, row in rows.items():
        assert f"\n{name.rjust(11)}  " in printed
        assert row["convention"] == "openai"
        assert (row["step"], row["num_images"], row["clip"]) == (4, 6, False)
    for exact in ("edict", "bdia", "belm"):
        assert rows[exact]["reconstruction_l2"] < 1e-4 < rows["ddim"]["reconstruction_l2"]
    assert rows["ddim"]["inversion_evaluations"] == 8


def test_options_of_methods(tiny_run: Path, tmp_path: Path) -> None:
    rows = table(tiny_run, tmp_path, "--methods", "fixed_point", "--set", "fixed_point.iterations=3")
    assert rows["fixed_point"]["inversion_evaluations"] == 24
    assert settings_by_name(["edict"], ["edict.edict_mixing=0.9"])["edict"].edict_mixing == 0.9


def test_images_of_the_user(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for k, image in enumerate(np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "mine" / f"{k}.png")
    rows = table(tiny_run, tmp_path / "out", "--images", str(tmp_path / "mine"))
    assert "swap" not in rows
    assert rows["ddim"]["num_images"] == 3
    assert rows["ddim"]["noise_distance"] is None


def test_methods_that_are_there_are_kept_and_only_missing_ones_computed(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = table(tiny_run, tmp_path, "--methods", "edict", "ddim")
    assert list(first) == ["ddim", "edict"]
    capsys.readouterr()
    both = table(tiny_run, tmp_path, "--methods", "ddim", "fixed_point")
    assert list(both) == ["ddim", "fixed_point", "edict"]
    assert {name: both[name] for name in first} == first
    captured = capsys.readouterr()
    assert "Kept, as there already: ddim\n" in captured.out and "edict" in captured.out
    assert "fixed_point: " in captured.err and "ddim: " not in captured.err
    # Another method in the table belongs to the same weights and noises, or nothing is added.
    common = [str(tiny_run), "--num_samples", "6", "--num_steps", "8", "--device", "cpu", "--out", str(tmp_path)]
    assert inversions([*common, "--methods", "belm", "--weights", "raw"]) == 1
    assert "weights is ema there and raw now" in capsys.readouterr().err
    assert table(tiny_run, tmp_path, "--methods", "ddim") == both


def test_an_interrupted_table_keeps_finished_methods(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = Table.add

    def interrupted(self: Table, row: MethodRow) -> None:
        if row.name == "edict":
            raise KeyboardInterrupt
        add(self, row)

    options = ["--num_samples", "6", "--num_steps", "8", "--device", "cpu", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Table, "add", interrupted)
        assert inversions([str(tiny_run), *options, "--methods", "ddim", "edict"]) == 130
    assert "the same command goes on with the methods that are missing" in capsys.readouterr().err
    assert list(table(tiny_run, tmp_path, "--methods", "ddim", "edict")) == ["ddim", "edict"]
    assert "Kept, as there already: ddim" in capsys.readouterr().out


def test_the_images_are_known_by_their_content(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    for folder, images in zip(("a", "b"), pixels, strict=True):
        (tmp_path / folder / "mine").mkdir(parents=True)
        for k, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / "mine" / f"{k}.png")
    one = ["--methods", "ddim", "--images"]
    rows = table(tiny_run, tmp_path / "out", *one, str(tmp_path / "a" / "mine"))
    assert rows["ddim"]["images"] == "mine"
    options = ["--num_samples", "6", "--num_steps", "8", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert inversions([str(tiny_run), *options, *one, str(tmp_path / "b" / "mine")]) == 1
    assert "images_sha256 is " in capsys.readouterr().err


def test_every_method_records_the_options_that_it_reads() -> None:
    """As the explanations of InversionSettings say it: ``name: method, method: what``."""
    explained: dict[str, set[str]] = {name: set() for name in get_args(Method)}
    for name in asdict(InversionSettings()):
        words = re.search(rf"^ +{name}: ([a-z_, ]+): ", InversionSettings.__doc__ or "", re.MULTILINE)
        for method in [] if words is None else words[1].split(", "):
            explained[method].add(name)
    assert {name: set(options_of(InversionSettings(method=name))) for name in get_args(Method)} == explained


def test_what_is_not_finite_is_said_and_stays_json(tmp_path: Path) -> None:
    figures = (8, 8, math.nan, math.inf, 1.0, None, None, None, 0.0, 1.0, None, 0.1)
    row = MethodRow("ddim", "ddim", 4, *figures)
    table = Table(tmp_path, 8, {"ddim": InversionSettings()}, {"weights_sha256": "ab"})
    with pytest.warns(UserWarning, match="ddim led to infinities or NaN"):
        table.add(row)
    (kept,) = json.loads((tmp_path / "inversion_methods.json").read_text(), parse_constant=pytest.fail)
    assert (kept["reconstruction_l2"], kept["reconstruction_rmse"]) == (None, None)
    assert not Table(tmp_path, 8, {"ddim": InversionSettings()}, {"weights_sha256": "ab"}).missing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "ddim.iterations=3"], "--set ddim.OPTION must be an option of ddim (none), got 'iterations'"),
        (["--set", "iterations=3"], "--set must be METHOD.OPTION=VALUE"),
        (["--set", "fixed_point.iterations=few"], "must be of type int, got 'few'"),
        (["--num_steps", "30"], "num_steps=30 does not divide 40"),
        (["--checkpoints", "3"], "must be among the stored ones"),
        (["--checkpoints", "0,2"], "--checkpoints must be one here, got those of steps [0, 2]"),
        (["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input(tiny_run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert inversions([str(tiny_run), *options]) == 1
    assert message in capsys.readouterr().err
