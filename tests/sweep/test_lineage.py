"""Which folder a trial gets, and what its lineage says."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from probediff.runs import lock
from probediff.runs.folder import LOCK, RunFolder
from probediff.runs.lock import holder, release
from probediff.sweep.lineage import TRIAL_VARIABLE, Trial, claim_trial_folder, record_trial, trial_name

VALUES = {"seed_everything": 10, "model.schedule": "cosine"}
NAME = "model.schedule=cosine,seed_everything=10"


@pytest.fixture(autouse=True)
def no_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "_held", {})
    for name in (TRIAL_VARIABLE, "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.delenv(name, raising=False)


#: What the processes own that a test pretends to be; they never end.
OWNED: list[ExitStack] = []


def under_agent(monkeypatch: pytest.MonkeyPatch, run_id: str, values: dict[str, Any] | None = None) -> Path:
    """Claim as the process that an agent starts, in a fresh process as far as locks go."""
    monkeypatch.setattr(lock, "_held", {})
    content = {"wandb_version": 1} | {key: {"value": value} for key, value in (values or VALUES).items()}
    Path(f"{run_id}.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", run_id)
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", f"{run_id}.yaml")
    OWNED.append(ExitStack())
    folder = claim_trial_folder(OWNED[-1])
    assert folder is not None
    record_trial(folder)
    return folder


def leave(folder: Path, checkpoint: bool = True, finished: bool = False) -> None:
    """What is found of a trial whose process has ended."""
    release(folder)
    (folder / "checkpoints").mkdir(exist_ok=True)
    if checkpoint:
        (folder / "checkpoints" / "step=00000001.ckpt").touch()
    (folder / "records.jsonl").write_text('{"step": 1, "probe": "run", "values": {}}\n' if finished else "")


def test_outside_of_sweeps_there_is_none(tmp_path: Path) -> None:
    record_trial(tmp_path)
    assert claim_trial_folder(ExitStack()) is None
    assert RunFolder(tmp_path).lineage() == {}
    assert holder(tmp_path) is None


def test_the_folder_says_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = under_agent(monkeypatch, "one")
    assert folder == Path("runs/sweep-abc") / NAME
    assert RunFolder(folder).lineage() == {
        "id": f"abc/{NAME}",
        "sweep": "abc",
        "trial": "one",
        "continues": [],
        "values": VALUES,
    }
    found = holder(folder)
    assert found is not None
    assert found["process"] == os.getpid()


def test_a_stopped_trial_is_gone_on_with_by_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, run_id in enumerate(("one", "two", "three")):
        folder = under_agent(monkeypatch, run_id)
        assert folder.name == NAME
        assert RunFolder(folder).lineage()["continues"] == ["one", "two", "three"][:number]
        assert RunFolder(folder).lineage()["trial"] == run_id
        leave(folder)
        assert holder(folder) is None


def test_a_start_without_checkpoint_is_not_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(under_agent(monkeypatch, "one"), checkpoint=False)
    assert RunFolder(under_agent(monkeypatch, "two")).lineage()["continues"] == []


def test_the_same_values_while_the_first_trial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = under_agent(monkeypatch, "one")
    with (first / LOCK).open() as other:
        held = lock._held
        second = under_agent(monkeypatch, "two")
        assert second.name == f"{NAME}-2"
        assert RunFolder(second).lineage()["continues"] == []
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert len(held) == 1


def test_the_same_values_after_the_first_trial_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    first = under_agent(monkeypatch, "one")
    leave(first, finished=True)
    second = under_agent(monkeypatch, "two")
    assert second.name == f"{NAME}-2"
    leave(second)
    assert under_agent(monkeypatch, "one") == first, "W&B starts the same run again"
    leave(first, finished=True)
    assert under_agent(monkeypatch, "two") == second


def test_the_same_run_twice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = under_agent(monkeypatch, "one")
    held = list(lock._held.values())
    with pytest.raises(ValueError, match=f"process {os.getpid()} is at work in {re.escape(str(first))}"):
        under_agent(monkeypatch, "one")
    assert held


def test_the_local_runner_settles_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("seeds", "9", VALUES, "somewhere/trial")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    monkeypatch.setenv(TRIAL_VARIABLE, trial.to_json())
    with ExitStack() as owning:
        assert claim_trial_folder(owning) == Path("somewhere/trial")
        record_trial(Path("somewhere/trial"))
    assert RunFolder(Path("somewhere/trial")).lineage()["id"] == "seeds/trial"


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(TRIAL_VARIABLE, Trial("seeds", "9", {}, "file/trial").to_json())
    with pytest.raises(ValueError, match="--run_dir must be a folder that can be written to"):
        claim_trial_folder(ExitStack())


def test_names_of_folders() -> None:
    assert trial_name(VALUES) == trial_name(dict(reversed(VALUES.items()))) == NAME
    odd = trial_name({"data.path": "/a/b c"})
    assert re.fullmatch(r"data\.path=_a_b_c-[0-9a-f]{8}", odd)
    assert odd != trial_name({"data.path": "/a b/c"})
    long = [trial_name({"k": "x" * 200 + end}) for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) < 80
