"""Text-to-image pipelines: the images of diffusers' own, whatever the class, the prompt and the guidance."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from probediff.ddim import Predict, as_predict
from probediff.denoisers.guidance import GUIDANCE, Prompt
from probediff.denoisers.text_to_image import TextToImage, is_text_to_image, load_text_to_image
from probediff.files import digest_tensors
from tests.reference.tiny_text_to_image import SCHEDULERS, own_pipeline, save_pipeline

PROMPTS = [
    Prompt("a cat", "a dog", 3.0),
    Prompt("a cat", "", 7.5),
    Prompt("", "", 1.0),
    Prompt("a cat", "ignored", 1.0),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: save_pipeline(root / kind, kind) for kind in SCHEDULERS}


def start(num: int = 2) -> Tensor:
    return torch.randn(num, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def predict_under(model: TextToImage, prompt: Prompt) -> Predict:
    return as_predict(model.eps_model(prompt), model.schedule)


def images_of(own: Any, prompt: Prompt, num_steps: int) -> Tensor:
    made = own(
        prompt=[prompt.text] * 2,
        negative_prompt=[prompt.negative] * 2 if prompt.negative else None,
        guidance_scale=prompt.guidance_scale,
        num_inference_steps=num_steps,
        latents=start() / own.scheduler.init_noise_sigma,
        output_type="pt",
    )
    return 2 * made.images - 1


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: f"{p.text}-{p.negative}-{p.guidance_scale}")
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_images_of_the_pipeline_itself(folders: dict[str, Path], kind: str, prompt: Prompt) -> None:
    own, model = own_pipeline(folders[kind]), load_text_to_image(str(folders[kind]))
    assert model.image_shape == (4, 8, 8)
    for num_steps in (1, 6):
        expected = images_of(own, prompt, num_steps)
        codes = model.path(num_steps).sample(predict_under(model, prompt), start())
        found = model.autoencoder.decode(codes)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert float(found.std()) > 0.05
        assert float((found.abs() < 1).float().mean()) > 0.3


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_prompts_and_guidance_change_the_images(folders: dict[str, Path], kind: str) -> None:
    model = load_text_to_image(str(folders[kind]))
    path = model.path(4)
    codes = [path.sample(predict_under(model, prompt), start()) for prompt in PROMPTS[:3]]
    assert all(float((a - b).abs().mean()) > 1e-4 for a, b in itertools.pairwise(codes))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_inversion_brings_the_codes_back(folders: dict[str, Path], kind: str) -> None:
    model = load_text_to_image(str(folders[kind]))
    predict = predict_under(model, Prompt("a cat", "", 1.0))
    x_0, path = 0.3 * start(), model.path(50)
    noise = path.invert(predict, x_0)
    returned = path.sample(predict, noise)
    assert float((returned - x_0).norm() / x_0.norm()) < 0.1
    assert float((noise - x_0).norm() / x_0.norm()) > 0.5


def test_the_codes_are_the_means_of_the_autoencoder(folders: dict[str, Path]) -> None:
    model, own = load_text_to_image(str(folders["sdxl_turbo"])), own_pipeline(folders["sdxl_turbo"])
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    with torch.no_grad():
        expected = own.vae.encode(pixels).latent_dist.mean * 0.13025
    torch.testing.assert_close(model.autoencoder.encode(pixels), expected, rtol=0, atol=1e-6)


def test_what_a_pipeline_says_of_itself(folders: dict[str, Path]) -> None:
    models = {kind: load_text_to_image(str(folder)) for kind, folder in folders.items()}
    found = {kind: model.conventions(PROMPTS[0]) for kind, model in models.items()}
    assert [found[kind]["prediction_type"] for kind in found] == ["epsilon", "v_prediction", "epsilon", "epsilon"]
    assert [found[kind]["timestep_spacing"] for kind in found] == ["leading", "leading", "trailing", "trailing"]
    assert models["sd15"].schedule_name == "scaled_linear 0.00085..0.012"
    sd15 = models["sd15"]
    assert found["sd15"] == {
        "weights": "as published",
        "prompt": "a cat",
        "negative_prompt": "a dog",
        "guidance_scale": 3.0,
        "guidance": GUIDANCE,
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "prediction_type": "epsilon",
        "scheduler_left_out": {"skip_prk_steps": True},
        "vae_encoding": "posterior mode",
        "scaling_factor": 0.18215,
        "autoencoder_sha256": digest_tensors(sd15.autoencoder.model.state_dict().items()),
    }
    assert json.loads(json.dumps(found)) == found
    left_out = {kind: conventions.get("scheduler_left_out") for kind, conventions in found.items()}
    others = {"sd21": None, "sd_turbo": {"interpolation_type": "linear"}, "sdxl_turbo": None}
    assert left_out == {"sd15": {"skip_prk_steps": True}} | others


def test_settings_of_the_scheduler_that_ddim_replaces(spoilt: Path) -> None:
    config = spoilt / "scheduler" / "scheduler_config.json"
    change(config, clip_sample=True, steps_offset=0, use_karras_sigmas=True, tensor_format="pt", trained_betas=None)
    left_out = {"clip_sample": True, "steps_offset": 0, "use_karras_sigmas": True, "skip_prk_steps": True}
    assert load_text_to_image(str(spoilt)).conventions(PROMPTS[0])["scheduler_left_out"] == left_out
    change(config, predict_epsilon=False)
    model = load_text_to_image(str(spoilt))
    assert model.conventions(PROMPTS[0])["prediction_type"] == "sample"
    assert model.eps_model(PROMPTS[0]).prediction_type == "sample"
    change(config, new_scale=2.0)
    with pytest.raises(ValueError, match=r"scheduler_config.json must hold settings .*got new_scale: 2.0"):
        load_text_to_image(str(spoilt))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_settings_of_networks_that_diffusers_passes_over(spoilt: Path, part: str) -> None:
    change(spoilt / part / "config.json", new_scale=2.0)
    with pytest.raises(ValueError, match=rf"{part}/config.json must hold settings .*got new_scale: 2.0"):
        load_text_to_image(str(spoilt))


def test_global_randomness_is_left_alone(folders: dict[str, Path]) -> None:
    before = torch.get_rng_state()
    load_text_to_image(str(folders["sdxl_turbo"])).eps_model(PROMPTS[0])
    assert torch.equal(torch.get_rng_state(), before)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    return save_pipeline(tmp_path / "pipeline", "sd15")


def test_pickles_and_damage(spoilt: Path) -> None:
    weights = spoilt / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"text_encoder must hold the whole weights"):
        load_text_to_image(str(spoilt))
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(
        ValueError, match=r"text_encoder must hold model.safetensors, got .*Weights as .bin are pickles"
    ):
        load_text_to_image(str(spoilt))
    (spoilt / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"unet must hold diffusion_pytorch_model.safetensors"):
        load_text_to_image(str(spoilt))


def test_tensors_that_are_missing(spoilt: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = spoilt / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    name = next(name for name in state if name.endswith("final_layer_norm.weight"))
    save_file({k: v for k, v in state.items() if k != name}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 differences: missing .*final_layer_norm.weight"):
        load_text_to_image(str(spoilt))


def test_a_tokenizer_that_is_missing(spoilt: Path) -> None:
    for path in (spoilt / "tokenizer").iterdir():
        path.unlink()
    (spoilt / "tokenizer").rmdir()
    with pytest.raises(ValueError, match=r"tokenizer must hold a tokenizer of CLIP"):
        load_text_to_image(str(spoilt))


def test_models_that_are_not_supported(spoilt: Path) -> None:
    change(spoilt / "vae" / "config.json", latents_mean=[0.0] * 4)
    with pytest.raises(ValueError, match=r"must have no latents_mean"):
        load_text_to_image(str(spoilt))
    change(spoilt / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    change(spoilt / "vae" / "config.json", latents_mean=None)
    with pytest.raises(ValueError, match=r"rescale_betas_zero_snr"):
        load_text_to_image(str(spoilt))
    change(spoilt / "model_index.json", _class_name="DDPMPipeline")
    assert not is_text_to_image(str(spoilt))
    with pytest.raises(ValueError, match=r"must be one of StableDiffusionPipeline, .*got DDPMPipeline"):
        load_text_to_image(str(spoilt))


def test_numbers_of_steps(folders: dict[str, Path]) -> None:
    model = load_text_to_image(str(folders["sd15"]))
    with pytest.raises(ValueError, match=r"num_steps must be an integer in 1..100, got 0"):
        model.path(0)
    with pytest.raises(ValueError, match=r"steps_offset of 1 below its 100 timesteps, got 100"):
        model.path(100)


def test_not_there_and_not_installed(tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a file, a folder or the id of a pipeline"):
        load_text_to_image(str(tmp_path / "absent"))
    assert is_text_to_image(str(folders["sd15"]))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers.*pip install 'probediff\[hub\]'"):
        load_text_to_image(str(folders["sd15"]))
