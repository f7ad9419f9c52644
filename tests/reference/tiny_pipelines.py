"""Unconditional pipelines of diffusers, so small that they are made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reference.tiny_text_to_image import randomised

diffusers = pytest.importorskip("diffusers")
# As short as this, an untrained network keeps the samples near [-1, 1], so that absolute differences mean something.
SHORT: dict[str, Any] = {"num_train_timesteps": 100}


def unet(**options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        defaults = {
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        return randomised(diffusers.UNet2DModel(**(defaults | options)))


def vq_model(**options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        defaults = {
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 4,
            "num_vq_embeddings": 16,
            "scaling_factor": 0.4,
        }
        return randomised(diffusers.VQModel(**(defaults | options)))


def saved(pipeline: Any, folder: Path) -> str:
    pipeline.save_pretrained(folder)
    return str(folder)


def ddim(**options: Any) -> Any:
    return diffusers.DDIMScheduler(**(SHORT | options))


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (content | values).items() if v != "remove"}))
