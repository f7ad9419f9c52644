"""Finished batches of a pass: believed only when they are whole."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import probediff.runs.batches
from probediff.runs.batches import PartialPass

ROWS, INDICES = {"eps": torch.arange(12.0).reshape(3, 4)}, torch.arange(3)


def test_a_batch_is_there_under_its_key_only(tmp_path: Path) -> None:
    PartialPass(tmp_path, {"weights_sha256": "ab"}).save(INDICES, ROWS)
    loaded = PartialPass(tmp_path, {"weights_sha256": "ab"}).load(INDICES)
    assert loaded is not None and torch.equal(loaded["eps"], ROWS["eps"])
    assert PartialPass(tmp_path, {"weights_sha256": "cd"}).load(INDICES) is None
    assert PartialPass(tmp_path, {"weights_sha256": "ab"}).load(INDICES[:2]) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "zeroed"])
def test_a_damaged_batch_is_made_again(tmp_path: Path, damage: str) -> None:
    store = PartialPass(tmp_path, {})
    store.save(INDICES, ROWS)
    (path,) = store.path.iterdir()
    content = path.read_bytes()
    flipped = content[:-6] + bytes([content[-6] ^ 4]) + content[-5:]
    path.write_bytes({"cut": content[:-7], "flipped": flipped, "empty": b"", "zeroed": bytes(len(content))}[damage])
    with pytest.warns(UserWarning, match=f"a finished batch is made again: {path}"):
        assert store.load(INDICES) is None
    store.save(INDICES, ROWS)
    assert store.load(INDICES) is not None


def test_a_batch_of_other_samples_or_settings_is_made_again(tmp_path: Path) -> None:
    store = PartialPass(tmp_path, {})
    store.save(INDICES, ROWS)
    (path,) = store.path.iterdir()
    for other in (PartialPass(tmp_path / "others", {}), PartialPass(tmp_path / "others", {"seed": 1})):
        other.save(INDICES + len(other.path.name), ROWS)
        (foreign,) = other.path.iterdir()
        shutil.copy(foreign, path)
        with pytest.warns(UserWarning, match=f"a finished batch is made again: {path} must be of"):
            assert store.load(INDICES) is None


def test_a_full_disk_is_told_and_finished_batches_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = PartialPass(tmp_path, {})
    store.save(INDICES, ROWS)
    monkeypatch.setattr(probediff.runs.batches, "save_tensors", full)
    with pytest.raises(OSError, match="free some"):
        store.save(INDICES + 3, ROWS)
    assert store.load(INDICES) is not None


def test_recorded_batches_leave_nothing(tmp_path: Path) -> None:
    first, second = PartialPass(tmp_path / "partial", {}), PartialPass(tmp_path / "partial", {"seed": 1})
    for store in (first, second):
        store.save(INDICES, ROWS)
    first.clear()
    assert second.load(INDICES) is not None
    second.clear()
    assert not list(tmp_path.iterdir())
