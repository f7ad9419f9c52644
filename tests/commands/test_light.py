"""Commands that start without torch and Lightning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.synthetic import write_run

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "torchvision", "torchmetrics", "jsonargparse", "wandb", "matplotlib.pyplot")
_CODE = """
import sys
from probediff.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as stopped:
    status = stopped.code
print("imported:", *({names!r} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


def imported(folder: Path, *arguments: str) -> str:
    """Which heavy modules a command imports, by its last line."""
    command = [sys.executable, "-c", _CODE.format(names=set(HEAVY)), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return done.stderr.splitlines()[-1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "n0"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((70, 64, 3), np.uint8)).save(folder / "a.png")
    return folder.parent


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["runs", "--help"],
        ["runs", "run"],
        ["runs", "run", "--json"],
        ["sweep", "--help"],
        ["sweep", str(ROOT / "sweeps" / "smoke.yaml")],
        ["dashboard", "--help"],
        ["dashboard", "team/project", "--dry_run"],
        ["dashboard", "team/project", "--dry_run", "--json"],
        ["verdicts", "--help"],
        ["verdicts", "run", "--out", "out"],
        ["report", "--help"],
        ["report", "run", "--out", "page"],
        ["prepare", "--help"],
        ["prepare", "stream", "--help"],
        ["prepare", "imagenet64", "--help"],
    ],
    ids=" ".join,
)
def test_a_light_command_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    write_run(tmp_path / "run", files=False, probes=("inversion_angles", "trajectory_heatmap"))
    assert imported(tmp_path, *arguments) == "imported:"


def test_decoding_and_verifying_images_import_nothing_heavy(source: Path, tmp_path: Path) -> None:
    arguments = ["prepare", "imagenet64", str(source), str(tmp_path / "out"), "--num_workers", "1"]
    assert imported(tmp_path, *arguments) == "imported:"
    assert imported(tmp_path, *arguments, "--verify") == "imported:"
