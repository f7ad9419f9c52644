"""Configurations of earlier versions, whose callbacks had another import name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from probediff.commands.fit import fit as fit_command
from probediff.commands.old_names import rename_callbacks
from probediff.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
TINY = [
    *("--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.accelerator=cpu", "--trainer.max_steps=1"),
    *("--network.channels=8", "--model.num_train_timesteps=40", "--wandb.mode=disabled", "--probing.progress=false"),
    *("--probing.settings.num_samples=17", "--probing.settings.num_steps=2", "--trainer.enable_progress_bar=false"),
    *("--probing.schedule.steps=[]", "--probing.schedule.every_n_steps=null", "--trainer.enable_model_summary=false"),
]


def fit(folder: Path, *options: str) -> dict[str, object]:
    """The configuration that `fit` stores."""
    assert fit_command([*TINY, "--run_dir", str(folder / "run"), *options]) == 0
    return yaml.safe_load((folder / "run" / "config.yaml").read_text())


def test_a_configuration_with_the_old_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [{"class_path": "callbacks.InversionAngles", "init_args": {"num_shown": 3}}]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": listed}}))
    config = fit(tmp_path, "--config", str(tmp_path / "old.yaml"), "--inversion_angles.enabled=false")
    line = "callbacks.InversionAngles is called probediff.callbacks.InversionAngles now"
    assert capsys.readouterr().err.count(line) == 1
    (stored,) = config["trainer"]["callbacks"]  # type: ignore[index]
    assert stored["class_path"] == "probediff.callbacks.InversionAngles"
    assert stored["init_args"]["num_shown"] == 3
    assert any(r["probe"] == "inversion_angles" for r in RunFolder(tmp_path / "run").records())


def test_the_old_name_as_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.callbacks=callbacks.PixelCorrelation", "--trainer.callbacks+=callbacks.PaperCompat"]
    config = fit(tmp_path, *options, "--pixel_correlation.enabled=false")
    assert "callbacks.PaperCompat is called probediff.callbacks.PaperCompat now" in capsys.readouterr().err
    paths = [callback["class_path"] for callback in config["trainer"]["callbacks"]]  # type: ignore[index]
    assert paths == ["probediff.callbacks.PixelCorrelation", "probediff.callbacks.PaperCompat"]


def test_only_names_of_ours_change(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {
        "class_path": "callbacks.MyOwn",
        "paths": ["runs/callbacks.Probing", "my.callbacks.Probing", "probediff.callbacks.Probing", "callbacks"],
        "modules": ["callbacks.mine.Probing", "callbacks.angles.Mine", "callbacks.a.b.Probing", "callbacks.probing"],
        "num": [1, None, True],
    }
    assert rename_callbacks(kept) == kept
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("callbacks.angles.InversionAngles", "InversionAngles"),
        ("callbacks.probing.Probing", "Probing"),
        ("callbacks.schedule.ProbeSchedule", "ProbeSchedule"),
    ],
)
def test_names_with_their_module_change_too(old: str, name: str) -> None:
    assert rename_callbacks(["--x", {"y": old}]) == ["--x", {"y": f"probediff.callbacks.{name}"}]
    assert rename_callbacks(f"--trainer.callbacks+={old}") == f"--trainer.callbacks+=probediff.callbacks.{name}"
