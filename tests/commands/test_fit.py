"""The command line: help, overrides, links, errors, and whole runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from probediff import callbacks
from probediff.__main__ import main
from probediff.commands.fit import FitCLI, available_probes
from probediff.denoisers import UNet
from probediff.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TINY = [
    *("fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.accelerator=cpu"),
    *("--trainer.max_steps=4", "--network.channels=8", "--model.num_train_timesteps=40", "--wandb.mode=disabled"),
    *("--probing.settings.num_samples=17", "--probing.settings.num_steps=4", "--trainer.enable_progress_bar=false"),
    *("--probing.schedule.steps=[2]", "--probing.schedule.every_n_steps=null", "--trainer.enable_model_summary=false"),
]


def printed_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments, "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_help_needs_nothing_heavy() -> None:
    code = "import sys; from probediff.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "train a diffusion model and probe it at checkpoints" in done.stdout


def test_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "unknown command 'fitt'; did you mean 'fit'?" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert re.search(r"probediff \d+\.\d+", capsys.readouterr().out)


def test_fit_help_explains_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--network.channels", "--model.learning_rate", "--probing.schedule.every_n_steps", "--run_dir"):
        assert option in text
    for probe in available_probes():
        assert f"--{probe}.enabled" in text
    assert "number of fixed noises" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_and_names_real_classes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = ["--data.path", "images"] if path.stem == "imagenet64" else []
    config = printed_config(capsys, "--config", str(path), *extra)
    assert config["data"]["class_path"].startswith("probediff.data.")
    assert config["trainer"]["max_steps"] > 0


def test_the_fragment_for_several_machines(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [ROOT / "configs" / "imagenet64.yaml", ROOT / "configs" / "fragments" / "nodes.yaml"]
    config = printed_config(capsys, *(f"--config={path}" for path in paths), "--data.path=images")
    assert config["trainer"]["num_nodes"] == 4
    assert config["trainer"]["max_steps"] == 1_500_000
    assert config["probing"]["schedule"]["named"] == "p1_imagenet64"
    assert config["probing"]["keep_full_checkpoints"] == 3


@pytest.mark.parametrize(
    ("name", "image_size", "parameters", "steps"),
    [("cifar10", 32, 52_546_438, 500_000), ("imagenet64", 64, 121_063_942, 1_500_000)],
)
def test_the_published_recipe(
    name: str, image_size: int, parameters: int, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--data.path", "images"] if name == "imagenet64" else []
    config = printed_config(capsys, "--config", str(ROOT / "configs" / f"{name}.yaml"), *extra)
    with torch.device("meta"):
        network = UNet(image_size, **config["network"])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    published = {"loss": "hybrid", "schedule": "cosine", "num_train_timesteps": 4000, "rescale_timesteps": True}
    published |= {"learning_rate": 1e-4, "weight_decay": 0.0, "ema_rates": [0.9999], "random_flip": True}
    assert config["model"] | published == config["model"]
    assert config["data"]["init_args"]["batch_size"] == 128
    assert config["network"]["dropout"] == {"cifar10": 0.3, "imagenet64": 0.0}[name]
    assert config["trainer"]["max_steps"] == steps
    assert config["probing"]["settings"]["noise_seed"] == 420


def test_overrides_and_interpolation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text("probing:\n  settings:\n    num_steps: ${model.num_train_timesteps}\n")
    base = str(ROOT / "configs" / "digits.yaml")
    config = printed_config(capsys, "--config", base, "--config", str(extra), "--model.num_train_timesteps", "50")
    assert config["model"]["num_train_timesteps"] == 50
    arguments = [*TINY[1:], "--config", str(extra), "--run_dir", str(tmp_path / "run")]
    cli = FitCLI([a for a in arguments if "num_steps" not in a])
    assert cli.config.probing.settings.num_steps == 40


def test_values_that_must_agree_are_linked(tmp_path: Path) -> None:
    cli = FitCLI([*TINY[1:], "--seed_everything=7", "--run_dir", str(tmp_path / "digits")])
    assert cli.model.seed == 7
    assert cli.model.image_shape == (1, 8, 8)
    assert cli.model.eps_model.unet.out_channels == 2
    patches = ["--data=Patches", "--data.image_size=12", "--data.num_images=50", "--network.attention_resolutions=[6]"]
    cli = FitCLI([*TINY[1:], *patches, "--run_dir", str(tmp_path / "patches")])
    assert cli.model.image_shape == (3, 12, 12)


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(TINY) == 0
    (run_dir,) = (tmp_path / "runs" / "digits").iterdir()
    assert "PROBEDIFF_RUN_DIR" not in os.environ, "processes of a later run would write into this folder"
    output = capsys.readouterr().out
    for heading in ("inversion_angles", "assignment_accuracy", "pixel_correlation", "checkpoint_similarity_final"):
        assert re.search(rf"^{heading}\nstep ", output, re.MULTILINE)
    assert f"The run lies in runs/digits/{run_dir.name}" in output
    assert {path.name for path in run_dir.iterdir()} >= {"config.yaml", "records.jsonl", "checkpoints", "samples"}
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == [
        f"step={step:08d}.ckpt" for step in (0, 2, 4)
    ]
    # The stored configuration is a configuration: it runs again and gives the same weights.
    again = tmp_path / "again"
    assert main(["fit", "--config", str(run_dir / "config.yaml"), "--run_dir", str(again)]) == 0
    first, second = (torch.load(p / "checkpoints" / "step=00000004.ckpt", weights_only=True) for p in (run_dir, again))
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probing.settings.num_steps=0"], r"num_steps must divide into 1\.\.40, got 0"),
        (["--network.attention_resolutions=[5]"], "attention"),
        (["--data=CIFAR10", "--data.arrays=/nowhere.npy", "--network.attention_resolutions=[16]"], r"nowhere\.npy"),
        (["--data=CIFAR10"], "exactly one of root and arrays must be given"),
        (["--data=ImageFolder", "--data.path=/nowhere", "--data.image_size=8"], "path must be a folder of images"),
        (["--checkpoint_similarity.features=[dino=/nowhere.pth]"], r"nowhere\.pth"),
        (["--checkpoint_similarity.features=[resnet]"], "resnet"),
        (["--model.ema_rates=[2.0]"], "ema_rates must be different numbers strictly between 0 and 1"),
    ],
)
def test_bad_input_is_one_line_before_training(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *arguments, "--run_dir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert re.search(f"probediff fit: error: .*{message}", error), error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("run/checkpoints/*.ckpt"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--network.chanels=8", "chanels"),
        ("--probing.settings.convention=edm", "convention"),
        ("--seed_everything=true", "seed_everything"),
        ("--data=NoSuchData", "NoSuchData"),
    ],
)
def test_unknown_keys_and_types_are_named(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*TINY, argument])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_dir_is_needed_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main(TINY) == 1
    assert "--run_dir must be given when torchrun or SLURM starts the processes" in capsys.readouterr().err


def test_the_probe_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of at most 20 lines in callbacks/ and its key: nothing else is needed."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "probes.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "class PixelRange(Probe)" in block)
    assert len(example.splitlines()) <= 20
    (tmp_path / "pixel_range.py").write_text(example)
    monkeypatch.setattr(callbacks, "__path__", [*callbacks.__path__, str(tmp_path)])
    assert main([*TINY, "--pixel_range.enabled=true", "--run_dir", str(tmp_path / "run")]) == 0
    found = [r for r in RunFolder(tmp_path / "run").records() if r["probe"] == "pixel_range"]
    assert [record["step"] for record in found] == [0, 2, 4]
    assert all(record["values"]["latent_range"] > 0 for record in found)
