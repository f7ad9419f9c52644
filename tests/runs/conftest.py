"""A run that W&B has whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.wandb_starts import BLOCK, MANY, logs, train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that W&B has whole."""
    root = tmp_path_factory.mktemp("finished") / "run"
    train(root, MANY)
    (log,) = logs(root)
    assert log.stat().st_size > 2 * BLOCK
    return root
