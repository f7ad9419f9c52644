"""Text-to-image pipelines of the real classes, so small that they are made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: What the scheduler_config.json of each pipeline on the hub says, apart from names of versions.
SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd15": {"_class_name": "PNDMScheduler", "steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True},
    "sd21": {
        "_class_name": "DDIMScheduler",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "prediction_type": "v_prediction",
    },
    "sd_turbo": {
        "_class_name": "EulerDiscreteScheduler",
        "steps_offset": 1,
        "timestep_spacing": "trailing",
        "prediction_type": "epsilon",
        "interpolation_type": "linear",
        "set_alpha_to_one": False,
    },
    "sdxl_turbo": {
        "_class_name": "EulerAncestralDiscreteScheduler",
        "steps_offset": 1,
        "timestep_spacing": "trailing",
        "prediction_type": "epsilon",
    },
}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
_WORDS = 16
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": _WORDS,
    "projection_dim": 12,
}


def randomised(model: nn.Module) -> nn.Module:
    """No layer stays at its initial zeros."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_pipeline(folder: Path, kind: str, num_train_timesteps: int = 100) -> Path:
    """A pipeline as on the hub: codes of 4 x 8 x 8 for pixels of 3 x 16 x 16."""
    import diffusers
    import transformers

    is_xl = kind == "sdxl_turbo"
    tokenizer = _tokenizer(folder.with_name(f"{folder.name}-tokenizer"), transformers)
    text = transformers.CLIPTextConfig(**_TEXT, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts: dict[str, Any] = {
            "vae": randomised(_vae(diffusers, 0.13025 if is_xl else 0.18215)),
            "unet": randomised(_unet(diffusers, is_xl)),
            "text_encoder": randomised(transformers.CLIPTextModel(text)),
            "tokenizer": tokenizer,
            "scheduler": diffusers.DDIMScheduler(),
        }
        if is_xl:
            parts |= {
                "text_encoder_2": randomised(transformers.CLIPTextModelWithProjection(text)),
                "tokenizer_2": tokenizer,
            }
    if is_xl:
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = diffusers.StableDiffusionPipeline(**parts, **others)
    pipeline.save_pretrained(folder)
    config = SCHEDULERS[kind] | _BETAS | {"num_train_timesteps": num_train_timesteps}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def own_pipeline(folder: Path) -> Any:
    """The pipeline by diffusers, with DDIM as diffusers exchanges schedulers."""
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = diffusers.DDIMScheduler.from_config(config)
    pipeline = type(pipeline)(**(pipeline.components | {"scheduler": scheduler}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _vae(diffusers: Any, scaling_factor: float) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=scaling_factor,
    )


def _unet(diffusers: Any, is_xl: bool) -> Any:
    added = (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 12,
        }
        if is_xl
        else {}
    )
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32 if is_xl else 16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **added,
    )


def _tokenizer(folder: Path, transformers: Any) -> Any:
    """CLIP's byte pairs with the letters alone and one merge."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "at</w>"]
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": _WORDS}))
    return transformers.CLIPTokenizer.from_pretrained(folder)
