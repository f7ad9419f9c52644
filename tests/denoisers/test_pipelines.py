"""Pipelines of diffusers: the same samples, latents and pixels as diffusers' own loops, and clear errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probediff.ddim import as_predict, ddim_invert, ddim_sample
from probediff.denoisers import PredictionModel, load_pipeline
from probediff.schedule import NoiseSchedule

diffusers = pytest.importorskip("diffusers")

NUM_STEPS = 7
SHAPE = (2, 3, 8, 8)
# As short as this, an untrained network keeps the samples near [-1, 1], so that absolute differences mean something.
SHORT: dict[str, Any] = {"num_train_timesteps": 100}
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


def randomised(model: nn.Module) -> nn.Module:
    """No layer stays at its initial zeros."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


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
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_perfect_predictions_become_the_same_noise(prediction_type: Any) -> None:
    schedule = NoiseSchedule.cosine(50)
    timestep = torch.tensor([0, 49])
    a = schedule.alpha_bar[timestep][:, None, None, None]
    x_0, eps = start(0).double(), start(1).double()
    outputs = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0, "sample": x_0}

    class Oracle(nn.Module):
        in_channels, out_channels = 3, 6

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return torch.cat([outputs[prediction_type], torch.full_like(x, 7.0)], dim=1)

    model = PredictionModel(Oracle(), schedule, prediction_type)
    found = model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, timestep)
    torch.testing.assert_close(found, eps, rtol=0, atol=1e-12)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    for timesteps, rows in ((timestep, slice(None)), (49, slice(1, None))):
        image, noise = as_predict(model, schedule)(x_t[rows], timesteps)
        outputs[prediction_type] = outputs[prediction_type][-1:]
        torch.testing.assert_close(noise, eps[rows], rtol=0, atol=1e-12)
        torch.testing.assert_close(image, x_0[rows], rtol=0, atol=1e-10 if prediction_type == "epsilon" else 1e-12)


def test_unknown_prediction_type(tmp_path: Path) -> None:
    folder = saved(diffusers.DDIMPipeline(unet(), ddim()), tmp_path / "pipeline")
    change(Path(folder) / "scheduler" / "scheduler_config.json", prediction_type="flow")
    with pytest.raises(ValueError, match=r"prediction_type must be one of .*'v_prediction'.*got 'flow'"):
        load_pipeline(folder)


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


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (content | values).items() if v != "remove"}))


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
