"""Runs of one's own modules and loops in a report: averaged only where their configuration says that they are alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from probediff.report.groups import group_runs
from probediff.report.sources import read_runs
from probediff.runs.folder import RunFolder
from probediff.runs.grouping import seed_of

LOOP = {"unknown": "a loop"}
KNOWN = {"class_path": "mine.Net", "file": "/a/mine.py", "file_sha256": "0"}


def write(path: Path, config: dict[str, Any]) -> None:
    folder = RunFolder(path).create()
    folder.save_config(yaml.safe_dump(config))
    folder.append({"step": 0, "probe": "pass", "values": {"network_evaluations": 2.0}, "conventions": {}})


@pytest.mark.parametrize(
    ("first", "second", "is_one_group"),
    [
        ({"module": KNOWN | {"init_args": {"seed": 0}}}, {"module": KNOWN | {"init_args": {"seed": 1}}}, True),
        ({"module": KNOWN | {"init_args": {}}}, {"module": KNOWN | {"init_args": {}, "file": "/b/mine.py"}}, True),
        ({"module": KNOWN | {"init_args": {}}}, {"module": KNOWN | {"init_args": {}, "file_sha256": "1"}}, False),
        ({"module": KNOWN | {"unknown": "its arguments"}}, {"module": KNOWN | {"unknown": "its arguments"}}, False),
        ({"module": LOOP, "loop": {}}, {"module": LOOP, "loop": {}}, False),
        ({"module": LOOP, "loop": {"seed": 0}}, {"module": LOOP, "loop": {"seed": 1}}, True),
        ({"module": LOOP, "loop": {"lr": 0}}, {"module": LOOP, "loop": {"lr": 1}}, False),
    ],
)
def test_runs_are_averaged_where_they_differ_by_the_seed_only(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], is_one_group: bool
) -> None:
    write(tmp_path / "first", first)
    write(tmp_path / "second", second)
    assert len(group_runs(read_runs([tmp_path])).groups) == (1 if is_one_group else 2)


def test_the_seed_is_found() -> None:
    assert seed_of({"module": {"init_args": {"seed": 3}}}) == seed_of({"loop": {"seed": 3}}) == 3
    assert seed_of({"seed_everything": 0}) == 0
    assert seed_of({"module": {"unknown": "x"}}) is None
