"""Pipelines of diffusers: the same samples, latents and pixels as diffusers' own loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import load_pipeline
from probediff.files import digest_tensors
from tests.reference.tiny_pipelines import change, ddim, diffusers, saved, unet, vq_model
from tests.reference.tiny_text_to_image import randomised

NUM_STEPS = 7
SHAPE = (2, 3, 8, 8)
# scheduler/scheduler_config.json of CompVis/ldm-celebahq-256, which leaves the later settings out.
CELEBAHQ = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.0.4",
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}


def start(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def own_inversion(model: Callable[[Tensor, Tensor], Tensor], scheduler: Any, x: Tensor, **options: Any) -> Tensor:
    """DDIMInverseScheduler around `model`."""
    inverse = diffusers.DDIMInverseScheduler.from_config(scheduler.config, **options)
    inverse.set_timesteps(NUM_STEPS)
    for timestep in inverse.timesteps:
        x = inverse.step(model(x, timestep), timestep, x).prev_sample
    return x


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_ddim_pipeline(tmp_path: Path, prediction_type: str, clip: bool) -> None:
    network, scheduler = unet(), ddim(prediction_type=prediction_type, clip_sample=clip)
    own = diffusers.DDIMPipeline(network, scheduler)
    pipeline = load_pipeline(saved(own, tmp_path / "pipeline"))
    assert (pipeline.clip, pipeline.image_shape, pipeline.differences) == (clip, (3, 8, 8), {})
    own.set_progress_bar_config(disable=True)
    expected = own(2, torch.Generator().manual_seed(0), num_inference_steps=NUM_STEPS, output_type="pt").images
    x_0 = ddim_sample(pipeline.eps_model, pipeline.schedule, start(), NUM_STEPS, "diffusers", clip)
    torch.testing.assert_close((x_0 / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-5)
    assert float(((expected > 0) & (expected < 1)).float().mean()) > 0.05

    def eps(x: Tensor, timestep: Tensor) -> Tensor:
        """Noise that the network's output implies at the timestep it is asked at."""
        output, a = network(x, timestep).sample, scheduler.alphas_cumprod[timestep]
        if prediction_type == "epsilon":
            return output
        x_0_hat = a.sqrt() * x - (1 - a).sqrt() * output if prediction_type == "v_prediction" else output
        return (x - a.sqrt() * x_0_hat) / (1 - a).sqrt()

    images = 0.5 * start(1).clamp(-2, 2)
    latent = ddim_invert(pipeline.eps_model, pipeline.schedule, images, NUM_STEPS, "diffusers", clip)
    expected = own_inversion(eps, scheduler, images, prediction_type="epsilon")
    torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)
    if prediction_type == "epsilon":
        untouched = own_inversion(lambda x, t: network(x, t).sample, scheduler, images)
        torch.testing.assert_close(latent, untouched, rtol=0, atol=1e-5)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_a_thousand_timesteps_in_double_precision(tmp_path: Path, prediction_type: str, clip: bool) -> None:
    # In float32 the first steps magnify rounding by 1 / sqrt(alpha_bar) = 160, in diffusers as here.
    network, scheduler = unet(), ddim(num_train_timesteps=1000, prediction_type=prediction_type, clip_sample=clip)
    pipeline = load_pipeline(saved(diffusers.DDIMPipeline(network, scheduler), tmp_path / "pipeline"))
    model = pipeline.eps_model.double()
    network.double()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(NUM_STEPS)
    x = start().double()
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, timestep).sample, timestep, x).prev_sample
    found = ddim_sample(model, pipeline.schedule, start().double(), NUM_STEPS, "diffusers", clip)
    torch.testing.assert_close(found, x, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_ddpm_pipeline_with_learned_sigma(tmp_path: Path) -> None:
    network = unet(out_channels=6)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    pipeline = load_pipeline(saved(diffusers.DDPMPipeline(network, scheduler), tmp_path / "pipeline"))
    timestep = torch.tensor([3, 77])
    torch.testing.assert_close(pipeline.eps_model(start(), timestep), network(start(), timestep).sample[:, :3])
    assert pipeline.schedule_name == "squaredcos_cap_v2"
    assert pipeline.clip
    assert pipeline.autoencoder is None
    assert not pipeline.eps_model.training


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_alpha_bar_is_the_schedulers_table(tmp_path: Path, beta_schedule: str) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=beta_schedule)
    pipeline = load_pipeline(saved(diffusers.DDIMPipeline(unet(), scheduler), tmp_path / "pipeline"))
    torch.testing.assert_close(pipeline.schedule.alpha_bar, scheduler.alphas_cumprod.double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_latent_diffusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("probediff.denoisers.pipelines._AUTOENCODER_BATCH", 1)
    autoencoder = vq_model()
    if kind == "kl":
        names = ("block_out_channels", "down_block_types", "up_block_types", "norm_num_groups", "scaling_factor")
        options = {name: autoencoder.config[name] for name in names}
        with torch.random.fork_rng(devices=[]):
            autoencoder = randomised(diffusers.AutoencoderKL(latent_channels=3, **options))
    own = diffusers.LDMPipeline(autoencoder, unet(), ddim(clip_sample=False))
    own.set_progress_bar_config(disable=True)
    pipeline = load_pipeline(saved(own, tmp_path / "pipeline"))
    found = pipeline.autoencoder
    assert found is not None
    assert not pipeline.clip
    expected = own(2, torch.Generator().manual_seed(0), num_inference_steps=NUM_STEPS, output_type="np").images
    codes = ddim_sample(pipeline.eps_model, pipeline.schedule, start(), NUM_STEPS, "diffusers", clip=False)
    pixels = found.decode(codes)
    assert pixels.shape == (2, 3, 16, 16)
    assert pixels.abs().max() <= 1
    assert pixels.std() > 0.01
    torch.testing.assert_close(pixels.permute(0, 2, 3, 1) / 2 + 0.5, torch.from_numpy(expected), rtol=0, atol=1e-5)
    with torch.no_grad():
        encoded = autoencoder.encode(pixels)
    expected_codes = encoded.latents if kind == "vq" else encoded.latent_dist.mean
    torch.testing.assert_close(found.encode(pixels), 0.4 * expected_codes, rtol=0, atol=1e-6)
    assert pipeline.conventions == {
        "weights": "as published",
        "prediction_type": "epsilon",
        "vae_encoding": "before rounding" if kind == "vq" else "posterior mode",
        "scaling_factor": 0.4,
        "autoencoder_sha256": digest_tensors(autoencoder.state_dict().items()),
    }


def test_the_configuration_of_ldm_celebahq(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    saved(diffusers.LDMPipeline(vq_model(), unet(), ddim()), folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(CELEBAHQ))
    change(folder / "vqvae" / "config.json", scaling_factor="remove", _diffusers_version="0.1.2")
    pipeline = load_pipeline(str(folder))
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(pipeline.schedule.alpha_bar, torch.cumprod(1 - betas, 0), rtol=1e-4, atol=0)
    assert pipeline.schedule_name == "scaled_linear 0.0015..0.0195"
    assert pipeline.differences == {}
    assert not pipeline.clip
    assert pipeline.autoencoder is not None
    assert pipeline.autoencoder.scaling_factor == 1.0


def test_a_pipeline_without_folders_for_its_parts(tmp_path: Path) -> None:
    # As google/ddpm-cifar10-32 is stored on the hub.
    folder = tmp_path / "pipeline"
    saved(diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()), folder)
    expected = load_pipeline(str(folder)).eps_model.state_dict()
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    found = load_pipeline(str(folder)).eps_model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_global_randomness_is_left_alone(tmp_path: Path) -> None:
    folder = saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline")
    before = torch.get_rng_state()
    load_pipeline(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    pipeline = load_pipeline(saved(diffusers.DDIMPipeline(unet().half(), ddim()), tmp_path / "pipeline"))
    assert {parameter.dtype for parameter in pipeline.eps_model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"set_alpha_to_one": False, "steps_offset": 1}, {"set_alpha_to_one": False, "steps_offset": 1}),
        ({"timestep_spacing": "trailing"}, {"timestep_spacing": "trailing"}),
        ({"clip_sample": True, "clip_sample_range": 2.0}, {"clip_sample_range": 2.0}),
        ({"clip_sample": False, "clip_sample_range": 2.0}, {}),
    ],
)
def test_what_the_schedulers_own_steps_do_differently(
    tmp_path: Path, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    pipeline = load_pipeline(saved(diffusers.DDIMPipeline(unet(), ddim(**options)), tmp_path / "pipeline"))
    assert pipeline.differences == expected
    assert pipeline.clip == (options.get("clip_sample", True) and "clip_sample_range" not in expected)


def test_predict_epsilon_of_old_schedulers_is_honoured(tmp_path: Path) -> None:
    """Schedulers of 2022 said ``predict_epsilon: false`` for a network that predicts x_0; diffusers passes it over."""
    folder = Path(saved(diffusers.DDIMPipeline(unet(), ddim(prediction_type="sample")), tmp_path / "pipeline"))
    config = folder / "scheduler" / "scheduler_config.json"
    x, timestep = start(), torch.tensor([3, 77])
    expected = load_pipeline(str(folder)).eps_model.predict(x, timestep)
    for stated in ("remove", None, "sample"):
        change(config, predict_epsilon=False, prediction_type=stated)
        pipeline = load_pipeline(str(folder))
        assert pipeline.conventions["prediction_type"] == "sample"
        found = pipeline.eps_model.predict(x, timestep)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    change(config, predict_epsilon=True, prediction_type="remove")
    assert load_pipeline(str(folder)).conventions["prediction_type"] == "epsilon"
    assert load_pipeline(str(folder)).eps_model.predict(x, timestep)[0] is None


def test_what_has_no_meaning_is_passed_over(tmp_path: Path) -> None:
    folder = Path(saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline"))
    harmless = {"tensor_format": "pt", "timestep_values": None, "_private": 1}
    change(folder / "scheduler" / "scheduler_config.json", **harmless)
    change(folder / "unet" / "config.json", _private=1, long_gone=None)
    assert load_pipeline(str(folder)).conventions == {"weights": "as published", "prediction_type": "epsilon"}


def test_settings_of_other_samplers_are_recorded(tmp_path: Path) -> None:
    folder = Path(saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline"))
    change(folder / "scheduler" / "scheduler_config.json", variance_type="fixed_large", skip_prk_steps=True)
    left_out = {"variance_type": "fixed_large", "skip_prk_steps": True}
    assert load_pipeline(str(folder)).conventions["scheduler_left_out"] == left_out
