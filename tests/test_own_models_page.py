"""The examples of README and of docs/own_models.md, as they stand there, with fewer steps."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from probediff.commands.probe import probe as probe_command
from probediff.commands.report import report as report_command
from probediff.probing.replay import compare_with_run
from probediff.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_models.md"
DIFF = ROOT / "docs" / "examples" / "train_unconditional.diff"


def example(page: Path, mark: str, **smaller: str) -> str:
    """The example with ``mark`` in it, with other numbers."""
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S) if mark in block]
    for usual, small in {f"{key}=": value for key, value in smaller.items()}.items():
        code, count = re.subn(rf"{usual}[\d_]+", usual + small, code)
        assert count, usual
    return code


class MyModule(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Conv()

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.network(batch, None).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor, time: Any) -> torch.Tensor:
        return self.layer(x)


def test_the_module_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example(ROOT / "README.md", "class Probed", max_steps="2", every_n_steps="1", num_samples="4")
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 12
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"MyModule": MyModule, "__name__": __name__}
    exec(compile(code.replace("PassSettings(", "PassSettings(num_steps=2, "), "README.md", "exec"), names)
    names["trainer"].fit(names["Probed"](), torch.utils.data.DataLoader(torch.rand(8, 3, 32, 32), batch_size=4))
    assert RunFolder("runs/mine").complete_steps() == {0, 1, 2}


def test_the_module_of_the_page_is_probed_replayed_and_reported(tmp_path: Path) -> None:
    numbers = {"max_steps": "4", "every_n_steps": "2", "num_samples": "16", "num_steps": "4"}
    (tmp_path / "mine.py").write_text(example(PAGE, "class Denoiser", **numbers))
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True, capture_output=True)
    run = tmp_path / "runs" / "mine"
    assert RunFolder(run).complete_steps() == {0, 2, 4}
    assert RunFolder(run).wiring()["verdict"] == "undecided"
    assert probe_command([str(run), "--trust", "--num_steps", "4", "--device", "cpu"]) == 0
    found = compare_with_run(RunFolder(run / "probes" / "replay" / "num_steps=0004"), run)
    assert found.compared == found.equal > 0 and not found.settings
    assert report_command([str(run), "--out", str(tmp_path / "report")]) == 0


def test_the_loop_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = example(PAGE, "class Network", num_samples="16", num_steps="4")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("1001", "5").replace("% 200", "% 2"), "own_models.md", "exec"), {"__name__": "example"})
    folder = RunFolder("runs/loop")
    assert folder.is_finished() and folder.complete_steps() == {0, 2, 4}
    assert folder.config()["loop"] == {"lr": 1e-3}


def test_the_eight_lines_of_the_page_are_those_of_the_file() -> None:
    shown = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(), re.M | re.S)[0].splitlines()
    assert [line.rstrip() for line in DIFF.read_text().splitlines()[2:]] == [line.rstrip() for line in shown]
    assert len([line for line in shown if re.match(r"\+(?!\+)", line)]) == 8
    assert not [line for line in shown if re.match(r"-(?!-)", line)]


@pytest.mark.slow
def test_the_example_of_diffusers_is_probed(tmp_path: Path) -> None:
    """Needs DIFFUSERS_EXAMPLE, the path of train_unconditional.py, and the packages that it imports."""
    script = os.environ.get("DIFFUSERS_EXAMPLE", "")
    missing = [name for name in ("diffusers", "accelerate", "datasets") if importlib.util.find_spec(name) is None]
    if not script or missing:
        pytest.skip(f"needs DIFFUSERS_EXAMPLE=.../train_unconditional.py, and {', '.join(missing) or 'no more'}")
    from diffusers import UNet2DModel
    from PIL import Image

    (tmp_path / "train_unconditional.py").write_bytes(Path(script).read_bytes())
    patch = ["patch", "-p0", "--fuzz=1", "-i", str(DIFF)]
    subprocess.run(patch, cwd=tmp_path, check=True)
    text = (tmp_path / "train_unconditional.py").read_text()
    (tmp_path / "train_unconditional.py").write_text(text.replace("PassSettings(256, 50)", "PassSettings(8, 5)"))
    (tmp_path / "images").mkdir()
    for index, noise in enumerate(torch.rand(16, 8, 8, 3)):
        Image.fromarray((noise * 255).byte().numpy()).save(tmp_path / "images" / f"{index}.png")
    blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes: dict[str, Any] = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16)}
    network = UNet2DModel(norm_num_groups=4, **sizes, **blocks)
    network.save_config(tmp_path / "network")
    options = {
        "train_data_dir": "images", "resolution": 8, "train_batch_size": 4, "num_epochs": 1, "checkpointing_steps": 2,
        "model_config_name_or_path": "network/config.json", "output_dir": "out", "eval_batch_size": 1,
        "ddpm_num_inference_steps": 2, "cache_dir": "cache",
    }  # fmt: skip
    arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "train_unconditional.py", *arguments], cwd=tmp_path, check=True, env=offline)
    folder = RunFolder(tmp_path / "out" / "probes")
    assert folder.is_finished() and folder.complete_steps() == {2, 4}
    (angles, _) = [record for record in folder.records() if record["probe"] == "inversion_angles"]
    assert 0 < angles["values"]["at_image_mean_deg"] < 180
    assert angles["conventions"]["schedule"] == "betas 0.0001..0.02"
