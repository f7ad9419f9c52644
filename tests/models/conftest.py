"""A finished run, shared by all tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from probediff.__main__ import main
from tests.models.tiny_run import FIT


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main([*FIT, f"--run_dir={path}"]) == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(finished, tmp_path / "run")
