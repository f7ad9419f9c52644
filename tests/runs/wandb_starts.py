"""Starts of a run that W&B logs offline, and what its logs have of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wandb
from PIL import Image

from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings
from probediff.runs.results import ProbeResult
from probediff.runs.tracking import Entry, Tracker
from probediff.runs.wandb_files import history_row, read_records
from tests.reference.wandb_log import finished_history

BLOCK = 32768
#: So many events that their log, of more than 32 KiB, has several blocks.
MANY = range(24)


def angles(step: int, change: float = 0.0) -> ProbeResult:
    """Everything that a result can have, of which every value depends on the step."""
    generator = torch.Generator().manual_seed(step)
    return ProbeResult(
        {"mean_deg": step + 1 / 3 + change, "tiny": 1e-300 / (step + 1), "undefined": math.nan},
        {"deg": torch.randn(9, generator=generator), "kept": torch.ones(2)},
        {"shown": torch.randint(256, (3, 8, 9), dtype=torch.uint8, generator=generator)},
        ("deg",),
        standard_errors={"mean_deg": step + 1 / 7, "undefined": math.nan},
    )


def event(step: int, change: float = 0.0) -> list[Entry]:
    timing = ProbeResult({"event_seconds": float(np.random.default_rng().random())})
    return [Entry(step, "angles", angles(step, change), {}), Entry(step, END_OF_EVENT, timing, {})]


def start(root: Path) -> tuple[FailsafeWandbLogger, Tracker]:
    logger = FailsafeWandbLogger(WandbSettings(mode="offline"), root)
    return logger, Tracker(RunFolder(root).create(), [logger])


def train(root: Path, steps: Iterable[int], change: float = 0.0) -> int:
    """A start that probes at ``steps`` and ends well; returns how many results it sent again."""
    logger, tracker = start(root)
    count = tracker.send_again()
    for step in steps:
        tracker.log(event(step, change))
    logger.finalize("success")
    finished_history(logs(root)[-1])
    return count


def logs(root: Path) -> list[Path]:
    """The logs of a folder by start."""
    return sorted(root.glob("wandb/offline-run-*/*.wandb"))


def run_id(root: Path) -> str:
    return (root / "wandb_id.txt").read_text().split()[0]


def logged_rows(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """All rows with results in all logs of a folder, each with the log's folder of files."""
    records = [(path.parent / "files", record) for path in logs(root) for record in read_records(path)]
    rows = [(files, history_row(r)) for files, r in records if r.WhichOneof("record_type") == "history"]
    return [(files, row) for files, row in rows if any(key.startswith("probe/") for key in row)]


def assert_each_record_once(root: Path) -> None:
    """Every record is one row of W&B's logs, with its values, pictures and histograms."""
    folder = RunFolder(root)
    rows = logged_rows(root)
    for record in folder.records():
        step, probe = record["step"], record["probe"]
        prefix = f"probe/{probe}/"
        mine = [
            (files, row)
            for files, row in rows
            if row["trainer/global_step"] == step and any(key.startswith(prefix) for key in row)
        ]
        assert len(mine) == 1, (step, probe, len(mine))
        ((files, row),) = mine
        errors = {f"standard_error/{probe}/{key}": error for key, error in record["standard_errors"].items()}
        assert {key for key in row if key.startswith("standard_error/")} == errors.keys()
        for key, value in ({prefix + key: value for key, value in record["values"].items()} | errors).items():
            assert row[key] == value or (value is None and math.isnan(row[key]))
        if probe == "angles":
            with Image.open(files / row[f"{prefix}shown/path"]) as picture:
                assert np.array_equal(np.asarray(picture), angles(step).pictures["shown"].permute(1, 2, 0).numpy())
            histogram = wandb.Histogram(angles(step).arrays["deg"].tolist())
            assert row[f"{prefix}deg_histogram/bins"] == histogram.bins
            assert row[f"{prefix}deg_histogram/values"] == histogram.histogram
    assert len(rows) == len(folder.records())
