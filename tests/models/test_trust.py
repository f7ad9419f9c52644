"""The configuration of a run that is only read is data: no class of a stranger is imported, nothing is resolved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probediff.commands.fit import fit
from probediff.commands.inversions import inversions
from probediff.commands.probe import probe
from probediff.commands.search_noise import search_noise
from probediff.commands.whitening import whitening
from probediff.models import fit_gaussian, load_checkpoint_model, load_run_data
from probediff.models.images import run_images
from probediff.runs.folder import RunFolder
from tests.models.tiny_run import FIT, change_config

SECRET = "5ecret-0f-the-environment"
STRANGER = """
from pathlib import Path
Path({mark!r}).touch()
from probediff.data import Digits
class Data(Digits):
    pass
"""
#: Names that an import, or an attribute of a module of ours, would lead to something with.
NAMES = [
    *(
        "stranger.Data",
        "probediff.x.os.system",
        "probediff.files.whole.os.system",
        "probediff.data.base.hashlib.sha256",
    ),
    *("probediff.data.ImageDataModule", "probediff.data.digits.ImageDataModule", "probediff.data.stranger.Data"),
    *("os.system", "Digits", ""),
]


@pytest.fixture
def stranger(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run whose data are of a class that lies beside it; the path of the file that importing it would make."""
    mark = tmp_path / "imported"
    (run / "stranger.py").write_text(STRANGER.format(mark=str(mark)))
    change_config(run, data={"class_path": "stranger.Data", "init_args": {"batch_size": 16}})
    monkeypatch.syspath_prepend(run)
    monkeypatch.chdir(run)
    yield mark
    sys.modules.pop("stranger", None)


@pytest.mark.parametrize("name", NAMES)
def test_no_class_but_ours_is_looked_up(name: str, run: Path, stranger: Path) -> None:
    change_config(run, data={"class_path": name, "init_args": {}})
    for read in (load_run_data, fit_gaussian, run_images):
        with pytest.raises(ValueError, match=r"got the class '.*', which would be imported and run; give --trust"):
            read(run)
    assert not stranger.exists() and "stranger" not in sys.modules
    # Its images are known without it.
    assert load_checkpoint_model(run).image_shape == (1, 8, 8)


def test_the_shape_is_that_of_records_or_of_the_images(run: Path, stranger: Path) -> None:
    (run / "records.jsonl").unlink()
    assert load_checkpoint_model(run).image_shape == (1, 8, 8)
    (run / "data.json").unlink()
    with pytest.raises(ValueError, match="give --trust"):
        load_checkpoint_model(run)
    assert not stranger.exists()
    assert load_checkpoint_model(run, trust=True).image_shape == (1, 8, 8)
    assert stranger.exists()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (probe, ["RUN", "--denoiser", "gaussian"]),
        (whitening, ["RUN", "--num_steps=10"]),
        (search_noise, ["IMAGE", "--run", "RUN", "--ridge", "0.01"]),
    ],
)
def test_commands_ask_for_trust(
    command: object, arguments: list[str], run: Path, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "IMAGE").touch()
    words = [str(run) if word == "RUN" else word for word in arguments]
    assert command([*words, "--device=cpu"]) == 1  # type: ignore[operator]
    error = capsys.readouterr().err
    assert "got the class 'stranger.Data', which would be imported and run; give --trust" in error
    assert error.count("\n") == 1 and not stranger.exists()


def test_with_trust_a_class_is_imported(run: Path, stranger: Path) -> None:
    assert type(load_run_data(run, trust=True)).__name__ == "Data"
    assert stranger.exists()
    assert run_images(run, trust=True).name == "Data"
    for name, reason in {
        "nowhere.Data": "No module named",
        "os.system": "no ImageDataModule",
        "B": "no module",
    }.items():
        change_config(run, data={"class_path": name, "init_args": {}})
        with pytest.raises(ValueError, match=f"must .*got:? .*{reason}"):
            load_run_data(run, trust=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "without data"),
        ({"class_path": ["a"]}, "must have the types"),
        ({"class_path": "probediff.data.Digits", "init_args": [1]}, "must have the types"),
        ({"class_path": "probediff.data.Digits", "init_args": {"batch_size": "many"}}, 'key "batch_size"'),
        ({"class_path": "probediff.data.ImageFolder", "init_args": {"path": "x"}}, "image_size"),
    ],
)
def test_arguments_of_ours_have_their_types(data: object, reason: str, run: Path) -> None:
    change_config(run, data=data)
    with pytest.raises(ValueError, match=reason) as caught:
        load_run_data(run)
    assert "\n" not in str(caught.value)


def test_nothing_is_resolved_in_a_run_that_is_read(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by the settings of its probes, which are the defaults of the command, nor by paths of its data."""
    monkeypatch.setenv("SOMEBODYS_VALUE", SECRET)
    word = "${oc.env:SOMEBODYS_VALUE}"
    config = RunFolder(run).config()
    change_config(
        run,
        checkpoint_similarity=config["checkpoint_similarity"] | {"features": [word]},
        data={"class_path": "probediff.data.ImageFolder", "init_args": {"path": word, "image_size": 8}},
    )
    assert probe([str(run), "--checkpoints=last", "--device=cpu", "--progress=false", "--num_steps=2"]) == 1
    assert word in capsys.readouterr().err
    with pytest.raises(OSError, match="SOMEBODYS_VALUE"):
        load_run_data(run)
    change_config(run, network=config["network"] | {"channels": word})
    assert inversions([str(run), "--device=cpu"]) == 1
    assert probe([str(run), "--device=cpu"]) == 1
    printed = "".join(capsys.readouterr())
    assert word in printed and SECRET not in printed
    assert not any(SECRET.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize("key", ["wandb.entity", "trainer.max_epochs"])
def test_a_secret_is_never_part_of_a_configuration(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration that is run may name the environment; what it must not do is to write a key down, or print it."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    config = tmp_path / "config.yaml"
    section, name = key.split(".")
    config.write_text(f"{section}:\n  {name}: ${{oc.env:WANDB_API_KEY}}\n")
    try:
        status = fit([*FIT[1:], "--config", str(config), "--run_dir", str(tmp_path / "run")])
    except SystemExit as stop:
        status = stop.code
    assert status
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed and "$WANDB_API_KEY" in printed
    assert not (tmp_path / "run").exists()
