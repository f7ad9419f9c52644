"""Pipelines that cannot be probed are refused, with what is wrong and the cure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.denoisers import load_pipeline
from tests.reference.tiny_pipelines import change, ddim, diffusers, saved, unet, vq_model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholding": True}, r"scheduler with thresholding"),
        ({"rescale_betas_zero_snr": True}, r"betas strictly between 0 and 1, got .* to 1: .*rescale_betas_zero_snr"),
    ],
)
def test_samplers_that_cannot_be_probed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = saved(diffusers.DDIMPipeline(unet(), ddim(**options)), tmp_path / "pipeline")
    with pytest.raises(ValueError, match=message):
        load_pipeline(folder)


def test_networks_that_cannot_be_probed(tmp_path: Path) -> None:
    folder = saved(diffusers.DDIMPipeline(unet(num_class_embeds=10), ddim()), tmp_path / "classes")
    with pytest.raises(ValueError, match=r"must be unconditional, got a U-Net with classes"):
        load_pipeline(folder)
    folder = saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "other")
    change(Path(folder) / "unet" / "config.json", sample_size=None)
    with pytest.raises(ValueError, match=r"must say sample_size"):
        load_pipeline(folder)
    index = Path(folder) / "model_index.json"
    change(index, unet=["diffusers", "UNet2DConditionModel"])
    with pytest.raises(ValueError, match=r"with a UNet2DModel as unet, got UNet2DConditionModel"):
        load_pipeline(folder)
    change(index, unet="remove")
    with pytest.raises(ValueError, match=r"with a UNet2DModel as unet, got none"):
        load_pipeline(folder)
    change(index, _class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match=r"one of DDPMPipeline, .*got StableDiffusionPipeline"):
        load_pipeline(folder)


def test_partial_folders(tmp_path: Path) -> None:
    folder = Path(saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"unet must hold the whole weights of its config.json, got: Unable"):
        load_pipeline(str(folder))
    weights.unlink()
    with pytest.raises(ValueError, match=r"unet must hold diffusion_pytorch_model.safetensors, got \['config.json'\]"):
        load_pipeline(str(folder))
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"unet must hold .*without config.json"):
        load_pipeline(str(folder))
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"scheduler_config.json must be a JSON file"):
        load_pipeline(str(folder))
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"got a folder without model_index.json"):
        load_pipeline(str(folder))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline")
    weights = Path(folder) / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("conv_out.bias")
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 differences: missing conv_out.bias"):
        load_pipeline(folder)
    save_file(state | {"conv_out.bias": torch.zeros(5)}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold the whole weights.*size mismatch for conv_out.bias"):
        load_pipeline(folder)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    diffusers.DDIMPipeline(unet(), ddim()).save_pretrained(folder, safe_serialization=False)
    with pytest.raises(ValueError, match=r"got \['config.json', 'diffusion_pytorch_model.bin'\]. Weights as .bin"):
        load_pipeline(str(folder))


def test_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a file, a folder or the id of a pipeline"):
        load_pipeline(str(tmp_path / "absent"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing is no folder here, and could not be fetched"):
        load_pipeline("nobody/nothing")


def test_diffusers_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'probediff\[hub\]'"):
        load_pipeline("google/ddpm-cifar10-32")


def test_unknown_prediction_type(tmp_path: Path) -> None:
    folder = saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline")
    change(Path(folder) / "scheduler" / "scheduler_config.json", prediction_type="flow")
    with pytest.raises(ValueError, match=r"prediction_type must be one of .*'v_prediction'.*got 'flow'"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "part", ["scheduler/scheduler_config.json", "unet/config.json", "vqvae/config.json"], ids=lambda part: part[:4]
)
def test_settings_that_diffusers_passes_over(tmp_path: Path, part: str) -> None:
    folder = Path(saved(diffusers.LDMPipeline(vq_model(), unet(), ddim()), tmp_path / "pipeline"))
    change(folder / part, timestep_values=[1, 2], new_scale=2.0)
    message = (
        rf"{part} must hold settings that .* knows, got timestep_values: \[1, 2\], new_scale: 2.0: install .*remove"
    )
    with pytest.raises(ValueError, match=message):
        load_pipeline(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"predict_epsilon": False, "prediction_type": "epsilon"},
            r"predict_epsilon in .* must agree .*got false, which means 'sample', and 'epsilon': remove the wrong one",
        ),
        ({"predict_epsilon": True, "prediction_type": "v_prediction"}, r"got true, which means 'epsilon', and 'v_"),
        ({"predict_epsilon": "no"}, r"predict_epsilon in .* must be true or false, got 'no'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, r"that DDIMScheduler stands in for, got FlowMatch"),
        ({"_class_name": "EDMEulerScheduler"}, r"that DDIMScheduler stands in for, got EDMEulerScheduler"),
        ({"sigma_data": 0.5}, r"must hold settings that .* got sigma_data: 0.5"),
    ],
)
def test_schedulers_that_contradict_themselves_or_another_model(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = Path(saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline"))
    change(folder / "scheduler" / "scheduler_config.json", **settings)
    with pytest.raises(ValueError, match=message):
        load_pipeline(str(folder))


@pytest.mark.parametrize("name", ["latents_mean", "latents_std", "shift_factor"])
def test_codes_that_are_more_than_scaled(tmp_path: Path, name: str) -> None:
    names = ("block_out_channels", "down_block_types", "up_block_types", "norm_num_groups", "scaling_factor")
    options = {key: vq_model().config[key] for key in names}
    with torch.random.fork_rng(devices=[]):
        autoencoder = diffusers.AutoencoderKL(latent_channels=3, **options)
    folder = Path(saved(diffusers.LDMPipeline(autoencoder, unet(), ddim()), tmp_path / "pipeline"))
    value = 0.1 if name == "shift_factor" else [0.1] * 3
    change(folder / "vqvae" / "config.json", **{name: value})
    with pytest.raises(ValueError, match=rf"must have no {name}, got"):
        load_pipeline(str(folder))
