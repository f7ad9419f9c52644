"""Lines of the records, and results of foreign probes: what cannot be kept is told, never half kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probediff.probing import Probe, ProbeResult
from probediff.probing.recorder import describe_failure
from probediff.runs.folder import RunFolder


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "3",
        '{"step": "2", "probe": "a"}',
        '{"step": true, "probe": "a"}',
        '{"step": -1, "probe": "a"}',
        '{"step": 1, "probe": 5}',
        '{"step": 1, "probe": null}',
        '{"step": 1, "probe": ["a"]}',
        '{"step": 1, "probe": "a", "values": [1]}',
        '{"step": 1, "probe": "a", "values": null}',
        '{"step": 1, "probe": "a", "values": {"x": "1"}}',
        '{"step": 1, "probe": "a", "values": {"x": [1]}}',
        '{"step": 1, "probe": "a", "values": {"x": 1%s}}' % ("0" * 400),
        '{"step": 1, "probe": "a", "conventions": []}',
        '{"step": 1, "probe": "a", "values": {"x": 1}, "standard_errors": []}',
        '{"step": 1, "probe": "a", "values": {"x": 1}, "standard_errors": {"x": -0.1}}',
        '{"step": 1, "probe": "a", "values": {"x": 1}, "standard_errors": {"x": "0.1"}}',
        '{"step": 1, "probe": "a", "error": 5}',
        "[" * 100000,
    ],
)
def test_records_of_another_structure_are_refused(line: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.records_path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"records.jsonl cannot be read"):
        folder.records()


def test_parts_that_are_missing_are_empty(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append({"step": 1, "probe": "a"})
    (record,) = folder.records()
    assert record == {"step": 1, "probe": "a"}
    assert record["values"] == record["standard_errors"] == record["conventions"] == {}
    with pytest.raises(KeyError):
        record["seconds"]


@pytest.mark.parametrize(
    "result",
    [
        {"values": {3: 1.0}},
        {"values": {"a/b": 1.0}},
        {"values": {"": 1.0}},
        {"values": {"x": "1"}},
        {"values": {"x": 1j}},
        {"values": {"x": None}},
        {"values": {"x": torch.zeros(2)}},
        {"values": [1.0]},
        {"values": {"x": 1.0}, "standard_errors": {"y": 0.1}},
        {"values": {"x": 1.0}, "standard_errors": {"x": -0.1}},
        {"values": {"x": 1.0}, "standard_errors": {"x": "0.1"}},
        {"values": {"x": 1.0}, "standard_errors": [0.1]},
        {"arrays": {"x": [1.0]}},
        {"arrays": {"x": np.zeros(3)}},
        {"arrays": {"x": torch.zeros(3).to_sparse()}},
        {"arrays": {"x": torch.zeros(3, dtype=torch.complex64)}},
        {"arrays": {5: torch.zeros(3)}},
        {"pictures": {"x": torch.zeros(3, 4, 4)}},
        {"pictures": {"x": torch.zeros(4, 4, dtype=torch.uint8)}},
        {"pictures": {"x": None}},
        {"pictures": {"a/b": torch.zeros(3, 4, 4, dtype=torch.uint8)}},
        {"histograms": ("x",)},
    ],
)
def test_results_that_cannot_be_kept(result: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)):
        ProbeResult(**result).validate()


def test_numbers_of_any_library_become_plain() -> None:
    values = {"a": torch.tensor(1.5), "b": np.float32(2.5), "c": np.int64(3), "d": True, "e": float("nan")}
    plain = ProbeResult(values).validate().values  # type: ignore[arg-type]
    assert json.loads(json.dumps({key: plain[key] for key in "abcd"})) == {"a": 1.5, "b": 2.5, "c": 3, "d": True}
    errors = {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": float("nan")}
    found = ProbeResult(values, standard_errors=errors).validate().standard_errors  # type: ignore[arg-type]
    assert (found["a"], found["b"], math.isnan(found["c"])) == (0.5, 0.25, True)
    assert {type(error) for error in found.values()} == {float}


@pytest.mark.parametrize("name", ["Timing", "Run", "Pass", "Training", "SamplesFinal"])
def test_names_that_records_have_for_something_else(name: str) -> None:
    with pytest.raises(ValueError, match="must not be called"):
        type(name, (Probe,), {})


def test_a_probe_whose_name_ends_like_another_record_keeps_its_records(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append({"step": 1, "probe": "dry_run"}, {"step": 1, "probe": "timing"}, {"step": 1, "probe": "run"})
    folder.rewind(1)
    assert [record["probe"] for record in folder.records()] == ["dry_run", "timing"]


def test_errors_that_cannot_say_what_they_are() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert describe_failure(SilentError()) == "SilentError"
    assert describe_failure(KeyError("a")) == "KeyError: 'a'"
    assert describe_failure(ValueError("said so")) == "said so"
