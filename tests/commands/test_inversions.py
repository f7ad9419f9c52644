"""``probediff inversions``: the table from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from probediff.commands.inversions import inversions, settings_by_name
from probediff.inversion import Method


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "iterations=3"], "--set must be METHOD.OPTION=VALUE"),
        (["--set", "fixed_point.iterations=few"], "must be of type int, got 'few'"),
        (["--num_steps", "30"], "num_steps=30 does not divide 40"),
        (["--checkpoints", "3"], "must be among the stored ones"),
    ],
)
def test_bad_input(tiny_run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert inversions([str(tiny_run), *options]) == 1
    assert message in capsys.readouterr().err
