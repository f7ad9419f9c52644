"""What a number depends on beside its configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from probediff.runs.folder import RunFolder
from probediff.runs.provenance import provenance


def test_provenance_names_versions_and_commit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.save_config("seed_everything: 0\n")
    text = (tmp_path / "config.yaml").read_text()
    assert f"# torch: {torch.__version__.split('+')[0]}" in text
    assert "# git_commit: " in text
    assert text.endswith("seed_everything: 0\n")
    assert {"python", "lightning", "wandb", "device"} <= provenance().keys()
