"""Runs for ``probediff compare``, and what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.commands.compare import compare
from probediff.runs.folder import RunFolder
from tests.commands.conftest import failing, record
from tests.models.tiny_run import change_config

QUICK = ["--device", "cpu", "--images", "60"]
STEPS = (0, 2, 4)


def copy_run(run: Path, path: Path, seed: int = 0, shift: float = 0.0) -> Path:
    """A run with all that it keeps but results, perhaps of another seed and other images."""
    shutil.copytree(run, path, ignore=shutil.ignore_patterns("probes"))
    change_config(path, seed_everything=seed)
    for step in STEPS if shift else ():
        x_0 = RunFolder(path).load_samples(step)
        wave = torch.sin(torch.arange(x_0.numel()) * 0.37).reshape(x_0.shape)
        RunFolder(path).save_samples(step, x_0 + shift * (1 + step) * wave)
    if shift:
        records = RunFolder(path).records_path
        records.write_text(records.read_text().replace('"weights_sha256": "', f'"weights_sha256": "{seed}'))
    return path


def result(run: Path) -> dict[str, Any]:
    return record(run / "probes" / "compare" / "compare.json")


def change_records(folder: RunFolder, **changes: Any) -> None:
    """Change the conventions of all records."""
    lines = folder.records_path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    changed = [r | {"conventions": r["conventions"] | changes} if r.get("conventions") else r for r in records]
    folder.records_path.write_text("".join(json.dumps(record) + "\n" for record in changed))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Why the command does not begin."""
    return failing(compare, [str(argument) for argument in arguments], capsys)
