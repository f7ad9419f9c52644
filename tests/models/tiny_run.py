"""A run of four steps on the digits, and what tests ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tests.reference.golden_inputs import hashed_normal

ROOT = Path(__file__).parents[2]
FIT = [
    *("fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.accelerator=cpu", "--trainer.max_steps=4"),
    *("--network.channels=8", "--model.num_train_timesteps=40", "--model.ema_rates=[0.9,0.5]", "--wandb.mode=disabled"),
    "--model.ema_warmup=false",
    *("--probing.settings.num_samples=17", "--probing.settings.num_steps=4", "--trainer.enable_progress_bar=false"),
    *("--probing.schedule.steps=[2]", "--probing.schedule.every_n_steps=null", "--trainer.enable_model_summary=false"),
]


def checkpoint(run: Path, step: int = 4) -> Path:
    return run / "checkpoints" / f"step={step:08d}.ckpt"


def eps_of(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(hashed_normal("x", (5, 1, 8, 8)).float(), torch.tensor([0, 7, 20, 38, 39]))


def change_config(run: Path, **changes: Any) -> None:
    path = run / "config.yaml"
    config = {k: v for k, v in (yaml.safe_load(path.read_text()) | changes).items() if v != "remove"}
    path.write_text(yaml.safe_dump(config))
