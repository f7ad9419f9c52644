"""What a run is, is compared before it is gone on with; what is refused leaves everything as it was."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from probediff.__main__ import main
from probediff.commands.fit import fit as fit_command
from probediff.runs.changes import compare_configs, flatten
from probediff.runs.configuration import read_first_config, read_history
from probediff.runs.folder import RunFolder
from probediff.runs.listing import read_run
from tests.commands.reading import read_files
from tests.conftest import TINY_RUN

ROOT = Path(__file__).parents[2]
COMMAND = ["--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN]


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def go_on(run: Path, *options: str) -> int:
    return fit_command([*COMMAND, "--run_dir", str(run), "--resume", "auto", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network.channels", "16"], "already holds a run; go on with it by --resume auto"),
        (["--resume", "/nope.ckpt"], r"nope.ckpt cannot be read"),
        (["--resume", "auto", "--trainer.max_steps", "3"], "trainer.max_steps must be at least 4"),
        (["--resume", "auto", "--data.num_workers", "-1"], "num_workers must be at least 0, got -1"),
    ],
)
def test_a_refused_start_leaves_a_run_as_it_was(
    options: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(run)
    assert fit_command([*COMMAND, "--run_dir", str(run), *options]) == 1
    assert message in capsys.readouterr().err
    assert read_files(run) == before
    assert read_run(run, 0.0).state == "finished"


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision", "bf16-true"],
        ["--probing.settings.num_steps", "41"],
        ["--checkpoint_similarity.num_directions", "24"],
        ["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"],
        ["--data", "probediff.data.ImageFolder", "--data.path", "/nowhere", "--data.image_size", "8"],
        ["--resume", "/nope.ckpt"],
    ],
)
def test_a_refused_start_leaves_no_folder(options: list[str], tmp_path: Path) -> None:
    assert fit_command([*COMMAND, "--wandb.mode", "offline", "--run_dir", str(tmp_path / "a" / "run"), *options]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "there", "asked"),
    [
        ("seed_everything", 0, 10),
        ("model.schedule", "cosine", "linear"),
        ("model.num_train_timesteps", 40, 80),
        ("model.ema_rates", [0.99], [0.9, 0.99]),
        ("model.random_flip", False, True),
        ("network.channels", 8, 16),
        ("network.dropout", 0.0, 0.1),
        ("data.init_args.batch_size", 64, 32),
        ("probing.settings.num_samples", 24, 25),
        ("probing.settings.noise_seed", 420, 1),
        ("probing.settings.inversion.method", "ddim", "fixed_point"),
        ("pixel_correlation.k", 10, 5),
    ],
)
def test_what_must_not_change_is_refused(
    option: str, there: Any, asked: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(run)
    assert go_on(run, f"--{option}={json.dumps(asked) if isinstance(asked, list) else asked}") == 1
    error = capsys.readouterr().err
    assert f"{option}: {there!r} there, {asked!r} asked for" in error
    assert "start another run with another --run_dir" in error
    assert read_files(run) == before


def test_all_differences_are_told_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go_on(run, "--seed_everything=3", "--model.loss=simple", "--trainer.max_steps=6") == 1
    error = capsys.readouterr().err
    assert "seed_everything: 0 there, 3 asked for" in error
    assert "model.loss: 'hybrid' there, 'simple' asked for" in error
    assert "max_steps" not in error


def test_what_may_change_is_applied_and_written_down(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (run / "config.yaml").read_bytes()
    options = ["--trainer.max_steps=7", "--model.learning_rate=0.005", "--model.weight_decay=0.1"]
    options += ["--latent_interpolation.enabled=true", "--latent_interpolation.num_pairs=4"]
    assert go_on(run, *options, "--probing.schedule.steps=[2,6]") == 0
    assert "changed from step 4 on: model.learning_rate from 0.001 to 0.005" in capsys.readouterr().out
    folder = RunFolder(run)
    assert (run / "config.yaml").read_bytes() == first
    assert {record["step"] for record in folder.records()} == {0, 2, 4, 6, 7}
    assert {r["step"] for r in folder.records() if r["probe"] == "latent_interpolation"} == {6, 7}
    (group,) = torch.load(folder.checkpoint_path(6), weights_only=True)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.005, 0.1)
    (entry,) = read_history(run)
    assert entry["step"] == 4
    assert entry["changed"] == {
        "trainer.max_steps": {"from": 4, "to": 7},
        "model.learning_rate": {"from": 0.001, "to": 0.005},
        "model.weight_decay": {"from": 0.0, "to": 0.1},
        "latent_interpolation.enabled": {"from": False, "to": True},
        "latent_interpolation.num_pairs": {"from": 8, "to": 4},
        "probing.schedule.steps": {"from": [2], "to": [2, 6]},
    }
    assert "@" in entry["by"]
    # Everybody else reads what holds now.
    assert folder.config()["trainer"]["max_steps"] == read_run(run, 0.0).max_steps == 7
    assert read_first_config(run)["trainer"]["max_steps"] == 4
    # And the next start is compared with that.
    assert go_on(run, *options, "--probing.schedule.steps=[2,6]") == 0
    assert read_history(run)[-1]["changed"] == {}


def test_the_learning_rate_of_a_changed_run_is_that_of_the_training(run: Path, tmp_path: Path) -> None:
    """Two runs that go on from one checkpoint differ as soon as their learning rates do."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    assert (
        go_on(run, "--trainer.max_steps=6") == go_on(other, "--trainer.max_steps=6", "--model.learning_rate=0.1") == 0
    )
    ours, theirs = (torch.load(RunFolder(path).checkpoint_path(6), weights_only=True) for path in (run, other))
    name = "eps_model.unet.out.2.weight"
    assert float((ours["state_dict"][name] - theirs["state_dict"][name]).abs().max()) > 0.05


def test_where_no_checkpoint_is_left_a_new_run_starts_and_the_records_stay(run: Path) -> None:
    records = (run / "records.jsonl").read_bytes()
    for checkpoint in RunFolder(run).checkpoints().values():
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.warns(UserWarning) as caught:
        assert go_on(run) == 0
    messages = [str(warning.message) for warning in caught]
    assert sum("passing over a checkpoint" in message for message in messages) == 3
    assert any("starting anew; what was there is in" in message for message in messages)
    (aside,) = (run / "set_aside").iterdir()
    assert (aside / "records.jsonl").read_bytes() == records
    assert len(list((aside / "checkpoints").iterdir())) == 3
    assert RunFolder(run).is_finished()
    assert sorted(RunFolder(run).checkpoints()) == [0, 2, 4]


def test_other_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder may move; what is in it may not change. A file that is broken is left out and written down."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    for name in ("here", "moved"):
        (tmp_path / name).mkdir()
        for k, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / name / f"{k}.png")
        (tmp_path / name / "broken.png").write_text("no image")
    data = ["--data", "probediff.data.ImageFolder", "--data.image_size=8", "--data.channels=1", "--data.batch_size=4"]
    command = [*COMMAND[2:], "--network.channel_mult=[1]", *data, f"--data.cache_dir={tmp_path / 'cache'}"]
    command += ["--network.attention_resolutions=[]", "--run_dir", str(tmp_path / "run"), "--data.skip_unreadable=true"]
    assert fit_command([*command, f"--data.path={tmp_path / 'here'}"]) == 0
    again = [*command, "--resume=auto", "--trainer.max_steps=5"]
    assert fit_command([*again, f"--data.path={tmp_path / 'moved'}"]) == 0
    images = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (images["shape"], images["unreadable"]) == ([6, 1, 8, 8], [["broken.png", "cannot identify image file"]])
    Image.fromarray(255 - pixels[0]).save(tmp_path / "moved" / "0.png")
    before = read_files(tmp_path / "run")
    assert fit_command([*again[:-1], "--trainer.max_steps=6", f"--data.path={tmp_path / 'moved'}"]) == 1
    assert "the images must be those that the run in" in capsys.readouterr().err
    assert read_files(tmp_path / "run") == before
    assert main(["whitening", str(tmp_path / "run"), "--ridge=1e-2", "--num_steps=8", "--device=cpu"]) == 1
    assert "the images must be those" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "share"),
    [*(("probe", share) for share in (0.0, 0.05, 0.6, 0.95)), ("report", 0.3), ("fit", 0.8)],
)
def test_a_configuration_that_was_cut_is_refused(
    command: str, share: float, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run / "config.yaml").read_bytes()
    (run / "config.yaml").write_bytes(text[: int(share * len(text))])
    arguments = {
        "probe": ["probe", str(run), "--out", str(tmp_path / "out"), "--device=cpu"],
        "report": ["report", str(run), "--out", str(tmp_path / "out")],
        "fit": ["fit", *COMMAND, "--run_dir", str(run), "--resume=auto", "--trainer.max_steps=5"],
    }
    assert main(arguments[command]) == 1
    error = capsys.readouterr().err
    assert "config.yaml" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("umask", [0o027])
def test_all_files_have_the_mode_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert fit_command([*COMMAND, "--run_dir", str(tmp_path / "run")]) == 0
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len(modes) > 20
    assert set(modes.values()) == {0o666 & ~umask}, {str(p): oct(m) for p, m in modes.items()}


def test_fast_dev_run_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Also where a run has begun; with a few noises only, although it asks for many."""
    monkeypatch.chdir(tmp_path)
    asked = [f"--run_dir={tmp_path / 'run'}", "--probing.settings.num_samples=1000", "--trainer.fast_dev_run=2"]
    sizes = []
    monkeypatch.setattr("probediff.callbacks.coordinator.run_pass", spy_on_samples(sizes))
    assert fit_command([*COMMAND, *asked]) == 0
    assert "nothing of this was kept" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert set(sizes) == {(4, 1)}
    assert fit_command([*COMMAND, f"--run_dir={tmp_path / 'run'}"]) == 0
    before = read_files(tmp_path / "run")
    assert fit_command([*COMMAND, *asked]) == 0
    assert read_files(tmp_path / "run") == before


def spy_on_samples(sizes: list[tuple[int, int]]) -> Callable[..., Any]:
    from probediff.probing.shared_pass import run_pass

    def spying(model: Any, settings: Any, *others: Any) -> Any:
        sizes.append((settings.num_samples, settings.num_steps))
        return run_pass(model, settings, *others)

    return spying


def test_keys_of_another_version_are_compared_with_the_defaults() -> None:
    stored = {"model": {"loss": "hybrid"}, "data": {"class_path": "A", "init_args": {"path": "x"}}}
    defaults = {"model": {"loss": "hybrid", "new": 1}}
    same = {"model": {"loss": "hybrid", "new": 1}, "data": {"class_path": "A", "init_args": {"path": "x", "newer": 5}}}
    assert compare_configs(stored, same, defaults) == ({}, {})
    other = {**same, "model": {"loss": "hybrid", "new": 2}}
    assert compare_configs(stored, other, defaults) == ({}, {"model.new": (1, 2)})
    gone = {"model": {}, "data": same["data"]}
    assert compare_configs(stored, gone, {}) == ({}, {"model.loss": ("hybrid", None)})


def test_every_key_is_either_applied_or_refused(tiny_run: Path) -> None:
    """No key of a configuration changes in silence."""
    config = RunFolder(tiny_run).config()
    for key in flatten(config):
        if key in ("run_dir", "resume", "config", "trainer.default_root_dir"):
            continue
        changed = copy.deepcopy(config)
        *parents, last = key.split(".")
        place = changed
        for parent in parents:
            place = place[parent]
        place[last] = "another"
        applied, refused = compare_configs(config, changed, {})
        assert set(applied) | set(refused) == {key}
