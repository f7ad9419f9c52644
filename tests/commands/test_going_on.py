"""Going on from other checkpoints, with other settings, more than once: what was there is kept, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from probediff.commands.fit import fit as fit_command
from probediff.runs.changes import compare_configs
from probediff.runs.configuration import read_history
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.gaps import tell_gaps
from tests.commands.reading import read_files
from tests.commands.test_identity_of_runs import COMMAND, go_on


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another seed."""
    path = tmp_path_factory.mktemp("other") / "run"
    assert fit_command([*COMMAND, "--seed_everything=5", "--run_dir", str(path)]) == 0
    return path


def test_a_checkpoint_of_another_run_is_not_gone_on_with_here(
    run: Path, other_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, foreign = read_files(run), RunFolder(other_run).checkpoint_path(4)
    assert fit_command([*COMMAND, f"--run_dir={run}", f"--resume={foreign}", "--trainer.max_steps=6"]) == 1
    assert "--resume must be auto or a checkpoint of the run in" in capsys.readouterr().err
    assert read_files(run) == before
    assert fit_command([*COMMAND, f"--run_dir={run}", f"--resume={run}"]) == 1
    assert "name a file such as" in capsys.readouterr().err


def test_a_branch_begins_with_a_checkpoint_and_says_from_where(other_run: Path, tmp_path: Path) -> None:
    """Another seed, and steps that are not due; averages of other rates are refused, for they would be called so."""
    branch, origin = tmp_path / "branch", RunFolder(other_run).checkpoint_path(2)
    command = [*COMMAND, f"--run_dir={branch}", f"--resume={origin}", "--probing.schedule.steps=[3]"]
    assert fit_command([*command, "--model.ema_rates=[0.5]"]) == 1
    assert not branch.exists()
    assert fit_command(command) == 0
    assert sorted(RunFolder(branch).checkpoints()) == [2, 3, 4]
    assert read_history(branch)[0]["checkpoint"] == str(origin)
    for path in RunFolder(branch).checkpoints().values():
        path.unlink()
    RunFolder(branch).records_path.unlink()
    assert fit_command([*COMMAND, f"--run_dir={branch}", "--resume=auto"]) == 1


def test_what_an_earlier_checkpoint_makes_obsolete_is_set_aside(run: Path) -> None:
    arguments = [*COMMAND, f"--run_dir={run}", f"--resume={RunFolder(run).checkpoint_path(2)}"]
    with pytest.warns(UserWarning, match="what was there of later steps is in"):
        assert fit_command([*arguments, "--trainer.max_steps=3", "--model.learning_rate=0.5"]) == 0
    (aside,) = (run / "set_aside").iterdir()
    assert (aside / "checkpoints" / "step=00000004.ckpt").exists()
    assert '"step": 4' in (aside / "records.jsonl").read_text()
    assert not any("00000004" in path.name for part in ("samples", "pictures") for path in (run / part).iterdir())
    assert sorted(RunFolder(run).checkpoints()) == [0, 2, 3]
    assert go_on(run, "--trainer.max_steps=4", "--model.learning_rate=0.5") == 0
    assert {record["step"] for record in RunFolder(run).records()} == {0, 2, 3, 4}


def test_small_numbers_stay_numbers_in_the_history(run: Path) -> None:
    options = ["--model.learning_rate=1e-5", "--whitening.ridge=1e-5", "--trainer.gradient_clip_val=.inf"]
    assert go_on(run, "--trainer.max_steps=5", *options) == 0
    assert go_on(run, "--trainer.max_steps=5", *options) == 0
    assert read_history(run)[-1]["changed"] == {}
    assert RunFolder(run).config()["model"]["learning_rate"] == 1e-5


def test_a_probe_that_was_switched_off_keeps_its_options(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go_on(run, "--trainer.max_steps=5", "--pixel_correlation.enabled=false") == 0
    assert go_on(run, "--trainer.max_steps=6", "--pixel_correlation.k=5") == 1
    assert "pixel_correlation.k: 10 there, 5 asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "- {step: 1, changed: 5}\n",
        "- {step: 1, changed: {a.b: 5}}\n",
        "- {step: 1, changed: {1: {to: 2}}}\n",
        "a: 1\n",
        "{",
        "- 3\n",
        "",
        "null",
        "[]",
    ],
)
def test_a_history_that_is_none(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.history.yaml").write_text(text)
    assert go_on(run) == 1
    assert "config.history.yaml" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_under_the_name_of_its_own(
    run: Path, other_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RunFolder(run).checkpoint_path(4)
    shutil.copy(RunFolder(other_run).checkpoint_path(4), path)
    before = read_files(run)
    assert go_on(run, "--trainer.max_steps=5") == 1
    assert f"{path} must be the checkpoint that the run has probed at step 4, got other" in capsys.readouterr().err
    assert read_files(run) == before


def test_what_is_gone_from_a_run_is_said(run: Path) -> None:
    records = RunFolder(run).records_path
    records.write_text("".join(line for line in records.open() if '"step": 2' not in line))
    RunFolder(run).sample_path(0).unlink()
    (run / "data.json").unlink()
    with (
        pytest.warns(UserWarning, match=f"the records of step 2 are gone from {run}"),
        pytest.warns(UserWarning, match=f"the samples of step 0 are gone from {run}"),
        pytest.warns(UserWarning, match=f"{run} has no data.json: whether the images are those"),
    ):
        assert go_on(run, "--trainer.max_steps=5") == 0


def test_a_run_without_samples_lacks_none(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder = RunFolder(tmp_path).create()
    folder.checkpoint_path(2).touch()
    folder.append({"step": 2, "probe": END_OF_EVENT, "values": {}, "conventions": {}})
    tell_gaps(folder, 2, [2])
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "text"),
    [("catalogue.json", "{"), ("catalogue.json", "[]"), ("lineage.json", '{"a": 1}'), ("lineage.json", "[]")],
)
def test_damaged_files_are_refused_before_anything_is_written(name: str, text: str, run: Path) -> None:
    (run / name).write_text(text)
    before = read_files(run)
    assert go_on(run, "--trainer.max_steps=5") == 1
    assert read_files(run) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--trainer.accelerator=gpu"],
            "see the options --trainer.*",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it is there"),
        ),
        (["--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "trainer.strategy must be one whose processes each"),
    ],
)
def test_processes_and_devices_that_cannot_be(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_command([*COMMAND, f"--run_dir={tmp_path / 'run'}", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["[1]", "{}", "null"])
def test_data_of_nothing(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "data.json").write_text(text)
    assert go_on(run, "--trainer.max_steps=5") == 1
    assert "data.json" in capsys.readouterr().err


def test_probes_may_come_and_go() -> None:
    without = {"trainer": {"max_steps": 5}}
    stored = without | {"own": {"enabled": True, "k": 10}}
    assert compare_configs(stored, without, {}, ["own"]) == ({"own.enabled": (True, False)}, {})
    off = without | {"own": {"enabled": False, "k": 10}}
    assert compare_configs(off, without, {}, ["own"]) == ({}, {})
    assert compare_configs(off, stored, {}, ["own"]) == ({"own.enabled": (False, True)}, {})
    assert compare_configs(without, stored, stored) == ({"own.enabled": (False, True)}, {})


def test_a_value_that_was_none_and_is_a_mapping_is_a_change() -> None:
    stored, asked = {"trainer": {"profiler": None}}, {"trainer": {"profiler": {"class_path": "A"}}}
    assert compare_configs(stored, asked, {})[0] == {"trainer.profiler.class_path": (None, "A")}


def test_a_copy_of_a_configuration_does_not_write_into_the_first_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = read_files(run)
    assert fit_command(["--config", str(run / "config.yaml"), "--trainer.max_steps=1"]) == 0
    assert read_files(run) == before
    assert len(list((tmp_path / "runs" / "config").iterdir())) == 1


def test_a_configuration_that_lies_in_the_folder_is_kept(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    text = "# mine\n" + (run / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text)
    with pytest.warns(UserWarning, match="a config.yaml that no run has written is kept in"):
        assert fit_command([f"--config={folder / 'config.yaml'}", f"--run_dir={folder}", "--trainer.max_steps=1"]) == 0
    (kept,) = folder.glob("set_aside/*/config.yaml")
    assert kept.read_text() == text
    assert RunFolder(folder).config()["trainer"]["max_steps"] == 1


def test_fast_dev_run_with_a_logger(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [*COMMAND, f"--run_dir={tmp_path / 'run'}", "--trainer.fast_dev_run=true", "--wandb.mode=offline"]
    assert fit_command(arguments) == 0
    assert list(tmp_path.iterdir()) == []
    assert "Implicitly" not in capfd.readouterr().err
