"""Reference artifacts: data -> run -> checkpoint, each told of once, whatever is killed and goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.files import write_json
from probediff.runs.conditions import WEIGHTS
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.loggers import FailsafeWandbLogger, WandbSettings
from probediff.runs.results import ProbeResult
from probediff.runs.stored_results import read_result
from probediff.runs.tracking import Entry, Tracker
from probediff.runs.wandb_artifacts import data_artifact, describe_data
from probediff.runs.wandb_files import read_records
from tests.reference.wandb_log import finished_history
from tests.runs.wandb_starts import logs

CONFIG = "data:\n  class_path: probediff.data.Digits\n  init_args:\n    batch_size: 4\n"
HUBS = {"hubs_sample": torch.tensor([4, 1]), "hubs_captures": torch.tensor([7, 2]), "other": torch.ones(3)}


def event(step: int, digest: str = "ab12", change: float = 0.0) -> list[Entry]:
    result = ProbeResult({"null": step + change}, dict(HUBS), tables=("hubs",)).validate()
    ends = Entry(step, END_OF_EVENT, ProbeResult({"event_seconds": 1.0}), {}, {WEIGHTS: f"{digest}-{step}"})
    return [Entry(step, "assignment_accuracy", result, {}), ends]


def make_folder(root: Path) -> RunFolder:
    folder = RunFolder(root).create()
    if not folder.config_path.exists():
        folder.save_config(CONFIG)
        write_json(root / "data.json", {"shape": [9, 1, 8, 8], "sha256": "0123abcd"})
    return folder


def train(root: Path, steps: Iterable[int], **changes: Any) -> None:
    """A start that saves a checkpoint and probes at ``steps``, and ends well."""
    folder = make_folder(root)
    logger = FailsafeWandbLogger(WandbSettings(mode="offline"), root)
    tracker = Tracker(folder, [logger])
    tracker.send_again()
    for step in steps:
        folder.checkpoint_path(step).write_bytes(b"weights")
        tracker.log(event(step, **changes))
    logger.finalize("success")
    finished_history(logs(root)[-1])


def artifacts(root: Path) -> list[Any]:
    """All artifacts that stand for checkpoints in the logs of a folder, in their order."""
    records = [record for path in logs(root) for record in read_records(path)]
    logged = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    return [artifact for artifact in logged if artifact.type == "model"]


def test_checkpoints_are_outputs_that_refer_to_their_files(tmp_path: Path) -> None:
    train(tmp_path, [0, 5])
    for step, artifact in zip((0, 5), artifacts(tmp_path), strict=True):
        assert set(artifact.aliases) == {f"step-{step}", "latest"}
        metadata = json.loads(artifact.metadata)
        assert (metadata["step"], metadata[WEIGHTS]) == (step, f"ab12-{step}")
        assert metadata["data_set"]["name"] == "Digits-0123abcd"
        (content,) = artifact.manifest.contents
        assert content.ref == (tmp_path / "checkpoints" / f"step={step:08d}.ckpt").as_uri()
        assert not content.local_path, "it would be uploaded"
    configs = [r.config for r in read_records(logs(tmp_path)[0]) if r.WhichOneof("record_type") == "config"]
    told = {item.key: json.loads(item.value_json) for config in configs for item in config.update}
    assert told["data_set"]["sha256"] == "0123abcd"


def test_nothing_is_told_twice(tmp_path: Path) -> None:
    train(tmp_path, [0, 1])
    RunFolder(tmp_path).rewind(0)
    train(tmp_path, [1, 2])
    assert [json.loads(artifact.metadata)["step"] for artifact in artifacts(tmp_path)] == [0, 1, 2]
    RunFolder(tmp_path).rewind(1)
    train(tmp_path, [2], digest="cd34", change=0.5)
    *_, last = artifacts(tmp_path)
    assert len(artifacts(tmp_path)) == 4 and json.loads(last.metadata)[WEIGHTS] == "cd34-2"


def test_what_wandb_lacks_is_told_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.checkpoint_path(0).write_bytes(b"weights")
    Tracker(folder, []).log(event(0))
    Tracker(folder, []).log(event(1))  # no checkpoint: the disk was full
    train(tmp_path, [])
    assert [json.loads(artifact.metadata)["step"] for artifact in artifacts(tmp_path)] == [0]


def test_tables_are_stored_and_read_back(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    Tracker(folder, []).log(event(3))
    (record, _) = folder.records()
    table = read_result(folder, record).table("hubs")
    assert {name: column.tolist() for name, column in table.items()} == {"sample": [4, 1], "captures": [7, 2]}
    train(tmp_path, [4])
    rows = finished_history(logs(tmp_path)[0])
    shown = [row for row in rows if row.get("probe/assignment_accuracy/hubs_table/nrows") == 2]
    assert [row["trainer/global_step"] for row in shown] == [3, 4]


@pytest.mark.parametrize("columns", [{}, {"t_a": torch.ones(2), "t_b": torch.ones(3)}, {"t_a": torch.ones(2, 2)}])
def test_columns_of_a_table_have_one_length(columns: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="columns of the table 't' must be arrays t_\\* of one length"):
        ProbeResult({}, columns, tables=("t",)).validate()


class Online:
    """As much of an online W&B run as is told of artifacts."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.used: list[Any] = []
        self.asked = threading.Event()

    def use_artifact(self, artifact: Any) -> None:
        self.used.append(artifact)
        self.asked.set()
        raise ConnectionError("no such service")

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        raise ConnectionError("no such service")


def test_a_service_without_artifacts_costs_artifacts_only(tmp_path: Path) -> None:
    make_folder(tmp_path)
    logger = FailsafeWandbLogger(WandbSettings(mode="offline"), tmp_path)
    logger._wandb_init["mode"], logger._is_open = "online", True
    logger._experiment = run = Online()  # type: ignore[assignment]
    run.config = type("Config", (dict,), {"update": lambda self, new, **_: dict.update(self, new)})()
    with pytest.warns(UserWarning, match=r"was not told of data or checkpoints \(ConnectionError.*training goes on"):
        logger._declare_data(run, is_new=True)
        assert run.asked.wait(60)
        logger.log_checkpoint(1, logs_file(tmp_path), "ab")
    (artifact,) = run.used
    assert (artifact.type, artifact.name, list(artifact.manifest.entries)) == (
        "dataset",
        "Digits-0123abcd",
        ["data.json"],
    )
    assert run.config["data_set"]["sha256"] == "0123abcd"
    assert not logger.failed


def logs_file(folder: Path) -> Path:
    path = folder / "step=00000001.ckpt"
    path.write_bytes(b"weights")
    return path


def test_data_in_one_file_are_referred_to_and_folders_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    array = tmp_path / "images.npy"
    array.write_bytes(b"pixels")
    for place, entries in ((array, {"data.json", "images.npy"}), (tmp_path, {"data.json"}), (None, {"data.json"})):
        description = describe_data(folder) | {"place": place and str(place)}
        artifact = data_artifact(description)
        assert set(artifact.manifest.entries) == entries
        assert artifact.metadata["place"] == (place and str(place))
    assert describe_data(RunFolder(tmp_path / "none")) == {}
