"""Waits for what an offline W&B run stored, which W&B writes from a process of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from probediff.runs.wandb_files import history_row, read_records


def history(run_folder: Path, timeout_sec: float = 60.0) -> list[dict[str, Any]]:
    """The logged steps of the one finished W&B run below ``run_folder``, as dictionaries."""
    (path,) = run_folder.glob("wandb/offline-run-*/*.wandb")
    return finished_history(path, timeout_sec)


def finished_history(path: Path, timeout_sec: float = 60.0) -> list[dict[str, Any]]:
    """The logged steps of one log, as soon as the record of the run's exit is there."""
    deadline = time.monotonic() + timeout_sec
    while True:
        records = list(read_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has no exit record after {timeout_sec} s, only {len(records)} others")
        time.sleep(0.1)
    return [history_row(record) for record in records if record.WhichOneof("record_type") == "history"]
