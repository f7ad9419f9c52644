"""Every logger of a trainer gets what probes find: read back from the files of CSV, TensorBoard and W&B."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from probediff.callbacks import Probe
from probediff.probing import ProbePass, ProbeResult
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.logger_adapters import adapt
from probediff.runs.record import Record
from probediff.runs.tracking import Entry, Tracker
from tests.conftest import all_probes
from tests.reference.wandb_log import history

Fit = Callable[..., tuple[Any, L.Trainer]]


class Own(Logger):
    """A user's logger that has a way to show images."""

    name, version = "own", 0

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[int | None, str, tuple[int, ...]]] = []

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Not needed."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_image(self, key: str, images: list[np.ndarray], step: int | None = None) -> None:
        self.images += [(step, key, image.shape) for image in images]


class Failing(Own):
    """One whose service is down for everything but the training's own numbers."""

    calls = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("probe/") for key in metrics):
            self.calls += 1
            raise ConnectionError("the service is down")


class WithErrors(Probe):
    """A user's probe that knows the standard errors of some of its numbers."""

    def measure(self, event: ProbePass) -> ProbeResult:
        """The step, and things that have no value or no error."""
        values = {"x": event.step + 0.5, "undefined": math.nan, "exact": 3.0}
        return ProbeResult(values, standard_errors={"x": event.step + 0.125, "undefined": math.nan})


def numbers(record: Record) -> dict[str, float]:
    """All that loggers get of a record: numbers and standard errors."""
    prefixes = {"values": "probe", "standard_errors": "standard_error"}
    return {
        f"{prefix}/{record['probe']}/{key}": math.nan if number is None else number
        for part, prefix in prefixes.items()
        for key, number in record[part].items()
    }


def test_files_of_loggers_hold_every_number_of_the_records(fit: Fit, tmp_path: Path) -> None:
    own, failing = Own(), Failing()
    loggers = [CSVLogger(tmp_path, "csv"), own, failing]
    loggers.append(WandbLogger(save_dir=tmp_path, offline=True, project="tests"))
    with pytest.warns(UserWarning, match=r"Failing failed .*ConnectionError: the service is down.*Training goes on"):
        _, trainer = fit([*all_probes(), WithErrors()], logger=loggers, log_every_n_steps=1)
    loggers[-1].experiment.finish()
    records = RunFolder(tmp_path / "run").records()
    assert failing.calls == 1 and len(records) > 10
    check_csv(tmp_path / "csv" / "version_0" / "metrics.csv", records)
    check_wandb(tmp_path, records)
    for record in records:
        there = [metrics for step, metrics in own.metrics if step == record["step"]]
        assert any(numbers(record).items() <= metrics.items() for metrics in there), record["probe"]
    shown = [step for step, key, shape in own.images if key == "probe/assignment_accuracy/hubs" and shape[-1] == 3]
    assert shown == [0, 2, 5]
    errors = [metrics.get("standard_error/with_errors/x") for _, metrics in own.metrics]
    assert [error for error in errors if error is not None] == [0.125, 2.125, 5.125]
    # Nobody monitors them.
    assert trainer.callback_metrics["probe/with_errors/x"] == 5.5
    assert not [key for key in trainer.callback_metrics if key.startswith("standard_error")]


def check_csv(path: Path, records: list[Record]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for record in records:
        for key, value in numbers(record).items():
            there = [float(row[key]) for row in rows if int(row["step"]) == record["step"] and row[key]]
            assert there == pytest.approx([value], rel=0, abs=0, nan_ok=True), key
    events = [row for row in rows if row["probe/timing/event_seconds"]]
    assert [int(row["step"]) for row in events] == [0, 2, 5]
    # What appears late is a column like any other, and an event is one row.
    assert all(row["probe/inversion_angles/at_image_mean_deg"] for row in events)
    assert sum(bool(row["probe/checkpoint_similarity_final/cka"]) for row in rows) == 2


def test_tensorboard_holds_every_number_picture_and_histogram(fit: Fit, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit([*all_probes(), WithErrors()], logger=TensorBoardLogger(tmp_path, "board"))
    folder, records = tmp_path / "board" / "version_0", RunFolder(tmp_path / "run").records()
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "scalars": 0})
    events.Reload()
    for record in records:
        for key, value in numbers(record).items():
            there = [event.value for event in events.Scalars(key) if event.step == record["step"]]
            assert there == pytest.approx([float(np.float32(value))], rel=0, abs=0, nan_ok=True), key
    assert [event.step for event in events.Images("probe/fixed_noise_generation/samples")] == [0, 2, 5]
    assert [event.step for event in events.Histograms("probe/inversion_angles/at_image_deg_histogram")] == [0, 2, 5]


def check_wandb(folder: Path, records: list[Record]) -> None:
    rows = history(folder)
    for record in records:
        wanted = numbers(record)
        there = [row for row in rows if row["trainer/global_step"] == record["step"] and wanted.keys() <= row.keys()]
        assert len(there) == 1, record["probe"]
        assert {key: there[0][key] for key in wanted} == pytest.approx(wanted, nan_ok=True)
    events = [row for row in rows if "probe/timing/event_seconds" in row]
    assert [row["trainer/global_step"] for row in events] == [0, 2, 5]
    for row in events:
        assert row["standard_error/with_errors/x"] == row["trainer/global_step"] + 0.125
        assert row["probe/assignment_accuracy/hubs/_type"] == "image-file"
        assert row["probe/inversion_angles/at_image_deg_histogram/_type"] == "histogram"
        assert row["probe/assignment_accuracy/hubs_table/nrows"] == 4


def test_what_is_not_finite_is_logged_as_such_and_is_in_no_histogram(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    odd = {"some": torch.tensor([1.0, math.nan, math.inf]), "none": torch.full((2,), math.nan)}
    result = ProbeResult({"undefined": math.nan, "large": math.inf}, odd, {}, ("some", "none"))
    Tracker(RunFolder(tmp_path).create(), loggers).log([Entry(3, "a", result.validate(), {})])
    # Nothing was closed: it is there for whoever is killed now.
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["probe/a/undefined"], row["probe/a/large"]) == ("3", "nan", "inf")
    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    assert math.isnan(events.Scalars("probe/a/undefined")[0].value)
    assert events.Tags()["histograms"] == ["probe/a/some_histogram"]


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loggers must have log_metrics\(metrics, step\), got a int"):
        adapt(3)


def test_the_newest_numbers_are_those_of_the_last_complete_event(tmp_path: Path) -> None:
    """Of a quantity that could not be measured again it is the one before; what a kill cut short does not count."""
    folder = RunFolder(tmp_path).create()
    tracker = Tracker(folder, [])
    assert tracker.last_scalars == {}
    for step, values in ((0, {"x": 1.0, "y": math.nan}), (2, {"x": 2.0})):
        ends = [Entry(step, END_OF_EVENT, ProbeResult({"event_seconds": float(step)}), {})]
        tracker.log([Entry(step, "a", ProbeResult(values), {}), *ends])
    expected = {"probe/a/x": 2.0, "probe/a/y": math.nan, "probe/timing/event_seconds": 2.0}
    assert tracker.last_scalars == pytest.approx(expected, nan_ok=True)
    folder.append({"step": 4, "probe": "a", "values": {"x": 9.0}, "conventions": {}})
    assert Tracker(folder, []).last_scalars == pytest.approx(expected, nan_ok=True)
