"""Unconditional pipelines of diffusers, from a folder or from the Hugging Face hub."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from probediff.denoisers.pipeline_files import (
    build_scheduler,
    find_pipeline,
    import_library,
    load_network,
    part_folder,
    read_json,
    read_scheduler,
)
from probediff.denoisers.predictions import PredictionModel
from probediff.files import digest_tensors
from probediff.schedule import NoiseSchedule

_PIPELINES = ("DDPMPipeline", "DDIMPipeline", "LDMPipeline")
_CLASSES = {
    "unet": ("UNet2DModel",),
    "scheduler": ("DDIMScheduler", "DDPMScheduler"),
    "vqvae": ("VQModel", "AutoencoderKL"),
}
#: What the `diffusers` convention of `probediff.ddim` does, by the names of a scheduler's settings.
_CONVENTION = {"set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading", "clip_sample_range": 1.0}
# The decoder of a 256 x 256 image takes some 0.3 GB.
_AUTOENCODER_BATCH = 8
_WEIGHTS = "diffusion_pytorch_model"
_FILES = ("*.json", f"*{_WEIGHTS}.safetensors", f"*{_WEIGHTS}-?????-of-?????.safetensors")


class Autoencoder:
    """Pixels to the codes a latent diffusion model works on, and back, a few images at a time on the input's device.

    Args:
        model: VQModel or AutoencoderKL of diffusers.
        scaling_factor: What codes are multiplied by before the diffusion.
    """

    def __init__(self, model: nn.Module, scaling_factor: float) -> None:
        self.model = model.eval().requires_grad_(False)
        self.scaling_factor = scaling_factor

    @cached_property
    def conventions(self) -> dict[str, Any]:
        """What codes and pixels depend on, for the records."""
        return {
            "vae_encoding": "before rounding" if hasattr(self.model, "quantize") else "posterior mode",
            "scaling_factor": self.scaling_factor,
            "autoencoder_sha256": digest_tensors(chain(self.model.named_parameters(), self.model.named_buffers())),
        }

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) pixels in [-1, 1] -> codes (before a VQ model rounds them; the mean of a VAE's posterior)."""
        model = cast(Any, self.model.to(pixels.device))
        outputs = [model.encode(part) for part in pixels.split(_AUTOENCODER_BATCH)]
        codes = [output.latents if hasattr(output, "latents") else output.latent_dist.mode() for output in outputs]
        return torch.cat(codes) * self.scaling_factor

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, C, h, w) -> (B, C, H, W) pixels, clipped to [-1, 1]."""
        model = cast(Any, self.model.to(codes.device))
        parts = (codes / self.scaling_factor).split(_AUTOENCODER_BATCH)
        return torch.cat([model.decode(part).sample.clamp(-1, 1) for part in parts])


@dataclass(frozen=True)
class Pipeline:
    """What probing needs of a pipeline.

    Attributes:
        eps_model: the network in float32 on the CPU, in eval mode.
        schedule: alpha_bar is the scheduler's float32 table.
        schedule_name: the scheduler's name of it, with the ends of its betas.
        image_shape: (C, H, W) of what is diffused, pixels or codes.
        clip: whether the scheduler clips predicted images to [-1, 1].
        differences: settings in which the scheduler's own steps differ from the `diffusers` convention here.
        left_out: settings of other samplers, which the scheduler leaves out.
        autoencoder: of a latent diffusion model.
    """

    eps_model: PredictionModel
    schedule: NoiseSchedule
    schedule_name: str
    image_shape: tuple[int, int, int]
    clip: bool
    differences: dict[str, Any]
    left_out: dict[str, Any]
    autoencoder: Autoencoder | None

    @property
    def conventions(self) -> dict[str, Any]:
        """What its numbers depend on beside the schedule, for the records."""
        conventions: dict[str, Any] = {"weights": "as published", "prediction_type": self.eps_model.prediction_type}
        named = {"scheduler_differences": self.differences, "scheduler_left_out": self.left_out}
        conventions |= {name: settings for name, settings in named.items() if settings}
        return conventions if self.autoencoder is None else conventions | self.autoencoder.conventions


def load_pipeline(spec: str) -> Pipeline:
    """Load a DDPMPipeline, DDIMPipeline or unconditional LDMPipeline.

    An LDM whose autoencoder's configuration does not name a `scaling_factor` gets 1: such files are older than the
    setting, and current diffusers, which takes its default of 0.18215 for them, decodes them to noise
    (github.com/huggingface/diffusers/issues/6725, about CompVis/ldm-celebahq-256). `predict_epsilon` of old schedulers,
    which current diffusers leaves out, is honoured; other keys that it leaves out are refused.

    Args:
        spec: Folder that `save_pretrained` wrote, or the id of one on the Hugging Face hub.

    Raises:
        ImportError: diffusers is not installed.
        FileNotFoundError: There is no such folder, or no such pipeline on a hub that answers.
        ValueError: It is another pipeline, conditional, incomplete, has no safetensors, a schedule or sampler that
            cannot be probed, or a setting that nothing here knows.
    """
    folder, index = find_pipeline(spec, _FILES, _PIPELINES)
    scheduler_class = _class(folder, index, "scheduler")
    config, left_out = read_scheduler(part_folder(folder, "scheduler"), scheduler_class)
    scheduler = build_scheduler(spec, scheduler_class, config)
    schedule = convert_schedule(spec, scheduler)
    unet = load_network(_class(folder, index, "unet"), part_folder(folder, "unet"))
    if unet.config.num_class_embeds is not None or unet.config.class_embed_type is not None:
        raise ValueError(f"{folder} must be unconditional, got a U-Net with classes: use one trained without them")
    autoencoder = None
    if index["_class_name"] == "LDMPipeline":
        place = part_folder(folder, "vqvae")
        vqvae = load_network(_class(folder, index, "vqvae"), place)
        check_codes(spec, vqvae.config)
        autoencoder = Autoencoder(vqvae, float(read_json(place / "config.json").get("scaling_factor", 1.0)))
    differences = {
        name: scheduler.config[name]
        for name, ours in _CONVENTION.items()
        if scheduler.config.get(name, ours) != ours and (name != "clip_sample_range" or scheduler.config.clip_sample)
    }
    return Pipeline(
        eps_model=PredictionModel(PlainUNet(unet), schedule, scheduler.config.prediction_type).eval(),
        schedule=schedule,
        schedule_name=schedule_name(scheduler.config),
        image_shape=unet_image_shape(spec, unet.config),
        clip=bool(scheduler.config.clip_sample) and "clip_sample_range" not in differences,
        differences=differences,
        left_out=left_out,
        autoencoder=autoencoder,
    )


class PlainUNet(nn.Module):
    """A U-Net of diffusers as the plain function of tensors that `PredictionModel` wants."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.in_channels, self.out_channels = int(unet.config.in_channels), int(unet.config.out_channels)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """(B, C, H, W), (B,) -> the network's output, (B, C or 2 C, H, W)."""
        return cast(Tensor, self.unet(x, timestep).sample)


def _class(folder: Path, index: dict[str, Any], name: str) -> Any:
    """The class of the scheduler, the U-Net or the autoencoder of a pipeline."""
    _, class_name = index.get(name) or (None, None)
    if class_name not in _CLASSES[name]:
        raise ValueError(
            f"{folder} must be an unconditional pipeline with a {' or '.join(_CLASSES[name])} as {name}, got "
            f"{class_name or 'none'}"
        )
    return getattr(import_library("diffusers"), class_name)


def check_codes(spec: str, config: Any) -> None:
    """Raise ValueError for an autoencoder whose codes are more than scaled before the diffusion."""
    for name in ("latents_mean", "latents_std", "shift_factor"):
        if config.get(name) is not None:
            raise ValueError(f"{spec} must have no {name}, got {config[name]}: such models are not supported")


def unet_image_shape(spec: str, config: Any) -> tuple[int, int, int]:
    """(C, H, W) of what a U-Net diffuses; raises ValueError where its configuration does not say."""
    size = config.sample_size
    if size is None:
        raise ValueError(f"{spec} must say sample_size in the config.json of its U-Net, got null: write the size there")
    height, width = (size, size) if isinstance(size, int) else size
    return int(config.in_channels), int(height), int(width)


def convert_schedule(spec: str, scheduler: Any) -> NoiseSchedule:
    """The scheduler's alpha_bar.

    Raises:
        ValueError: It thresholds, or ends without any signal; no setting here can express that.
    """
    if scheduler.config.get("thresholding"):
        raise ValueError(f"{spec} has a scheduler with thresholding, which DDIM here has not: set it to false to probe")
    alpha_bar = scheduler.alphas_cumprod.double()
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    betas = 1 - alpha_bar / previous
    if not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(
            f"{spec} must have betas strictly between 0 and 1, got {betas.min():g} to {betas.max():g}: a schedule that "
            "ends without any signal (rescale_betas_zero_snr) cannot be probed, because DDIM divides by the signal"
        )
    return NoiseSchedule(betas)


def schedule_name(config: Any) -> str:
    """A scheduler's name of its betas, with their ends."""
    if config.trained_betas is not None:
        return "trained_betas"
    if config.beta_schedule == "squaredcos_cap_v2":
        return str(config.beta_schedule)
    return f"{config.beta_schedule} {config.beta_start:g}..{config.beta_end:g}"
