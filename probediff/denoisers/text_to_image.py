"""Text-to-image pipelines of diffusers with DDIM: Stable Diffusion 1.5 and 2.1, SD-Turbo, SDXL-Turbo.

They are the models of *First-step inference in diffusion models learns image de-whitening* (P2). Whatever sampler a
pipeline comes with, P2 samples it with DDIM; so here its scheduler's settings (betas, spacing of the
timesteps, offset, prediction type) go into a DDIMScheduler, as diffusers itself does when schedulers are exchanged.
Only JSON, tokenizer tables and safetensors are read, see `probediff.denoisers.pipeline_files`.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from probediff.ddim import DDIMPath
from probediff.denoisers.guidance import GUIDANCE, Prompt, check_guidance
from probediff.denoisers.pipeline_files import (
    build_scheduler,
    find_pipeline,
    import_library,
    load_network,
    read_scheduler,
)
from probediff.denoisers.pipelines import (
    Autoencoder,
    PlainUNet,
    check_codes,
    convert_schedule,
    schedule_name,
    unet_image_shape,
)
from probediff.denoisers.predictions import PredictionModel
from probediff.schedule import NoiseSchedule

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_TEXT_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
_FILES = (
    "model_index.json",
    "scheduler/*.json",
    *(f"{part}/{file}" for part in ("unet", "vae") for file in ("*.json", "diffusion_pytorch_model.safetensors")),
    *(f"{part}/diffusion_pytorch_model-?????-of-?????.safetensors" for part in ("unet", "vae")),
    *(f"{part}/{file}" for part in _TEXT_ENCODERS for file in ("*.json", "model.safetensors")),
    *(f"{part}/{file}" for part in ("tokenizer", "tokenizer_2") for file in ("*.json", "*.txt")),
)


class TextToImage:
    """A text-to-image pipeline in float32 on the CPU; every prompt gives a denoiser with the same network.

    Attributes:
        schedule: alpha_bar is the scheduler's float32 table.
        schedule_name: the scheduler's name of it, with the ends of its betas.
        image_shape: (C, H, W) of the codes that are diffused.
        autoencoder: pixels to codes and back.
    """

    def __init__(self, pipeline: Any, spec: str, left_out: dict[str, Any]) -> None:
        """Take a pipeline of diffusers with a DDIMScheduler, its name, and settings that were left out for that."""
        self._pipeline = pipeline
        self._spec = spec
        self._left_out = left_out
        self._scheduler = pipeline.scheduler
        self.schedule: NoiseSchedule = convert_schedule(spec, self._scheduler)
        self.schedule_name = schedule_name(self._scheduler.config)
        self.autoencoder = Autoencoder(pipeline.vae, float(pipeline.vae.config.scaling_factor))
        self.image_shape = unet_image_shape(spec, pipeline.unet.config)

    def conventions(self, prompt: Prompt) -> dict[str, Any]:
        """What its numbers depend on beside the schedule, for the records."""
        settings = ("timestep_spacing", "steps_offset", "set_alpha_to_one", "prediction_type")
        return {
            "weights": "as published",
            "prompt": prompt.text,
            "negative_prompt": prompt.negative,
            "guidance_scale": prompt.guidance_scale,
            "guidance": GUIDANCE,
            **{name: self._scheduler.config[name] for name in settings},
            **({"scheduler_left_out": self._left_out} if self._left_out else {}),
            **self.autoencoder.conventions,
        }

    def eps_model(self, prompt: Prompt) -> PredictionModel:
        """The denoiser under a prompt, in eval mode; the prompt is embedded here, once.

        Raises:
            ValueError: a scale of 0 for a Turbo model.
        """
        check_guidance(self._spec, prompt.guidance_scale)
        network = _PromptedUNet(self._pipeline.unet, prompt.guidance_scale, *self._embed(prompt))
        model = PredictionModel(network, self.schedule, self._scheduler.config.prediction_type)
        return model.eval().requires_grad_(False)

    def path(self, num_steps: int) -> DDIMPath:
        """The steps of DDIMScheduler; its images of codes are never clipped.

        Raises:
            ValueError: ``num_steps`` that the scheduler cannot take.
        """
        total = len(self.schedule)
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= total:
            raise ValueError(f"num_steps must be an integer in 1..{total}, got {num_steps!r}")
        self._scheduler.set_timesteps(num_steps)
        timesteps = [int(t) for t in self._scheduler.timesteps.flip(0)]
        if timesteps[-1] >= total:
            offset = self._scheduler.config.steps_offset
            raise ValueError(
                f"num_steps must leave room for the scheduler's steps_offset of {offset} below its {total} timesteps, "
                f"got {num_steps}; take fewer steps"
            )
        alpha_bar = self.schedule.alpha_bar
        final = float(self._scheduler.final_alpha_cumprod)
        # As DDIMScheduler.step: not the next timestep, where the spacing is uneven.
        below = [t - total // num_steps for t in timesteps]
        return DDIMPath(
            tuple(timesteps),
            tuple(float(alpha_bar[t]) for t in timesteps),
            tuple(float(alpha_bar[t]) if t >= 0 else final for t in below),
            "diffusers",
            False,
        )

    @torch.no_grad()
    def _embed(self, prompt: Prompt) -> tuple[Tensor, dict[str, Tensor]]:
        """Embeddings (1 or 2, L, D) of what the scale asks for, [negative,] [prompt], and what SDXL adds to them."""
        scale = prompt.guidance_scale
        # Old pipelines take `prompt` by place, SDXL has a second one there.
        embeddings = self._pipeline.encode_prompt(
            prompt=prompt.text,
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=scale != 1,
            # SDXL may want zeros in place of an empty negative prompt, and sees that it was left out.
            negative_prompt=prompt.negative or None,
        )

        def chosen(text: Tensor, negative: Tensor | None) -> Tensor:
            wanted = [negative if scale != 1 else None, text if scale != 0 else None]
            return torch.cat([part for part in wanted if part is not None])

        text = chosen(*embeddings[:2])
        if len(embeddings) == 2:
            return text, {}
        pooled = chosen(*embeddings[2:])
        height, width = (side * self._pipeline.vae_scale_factor for side in self.image_shape[1:])
        time_ids = torch.tensor([[height, width, 0, 0, height, width]]).to(text).expand(len(text), -1)
        return text, {"text_embeds": pooled, "time_ids": time_ids.contiguous()}


class _PromptedUNet(PlainUNet):
    """A UNet2DConditionModel under one prompt, guidance inside."""

    def __init__(self, unet: Any, guidance_scale: float, text: Tensor, added: dict[str, Tensor]) -> None:
        super().__init__(unet)
        self.guidance_scale = guidance_scale
        self.register_buffer("text", text)
        self._added = tuple(added)
        for name, values in added.items():
            self.register_buffer(name, values)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Arguments and result as of `PlainUNet`."""
        times = len(cast(Tensor, self.text))
        rows = {name: getattr(self, name).repeat_interleave(len(x), dim=0) for name in ("text", *self._added)}
        output = self.unet(
            x.repeat(times, 1, 1, 1),
            timestep.repeat(times),
            encoder_hidden_states=rows.pop("text"),
            added_cond_kwargs=rows or None,
        ).sample
        if times == 1:
            return cast(Tensor, output)
        without, with_prompt = output.chunk(2)
        return cast(Tensor, without + self.guidance_scale * (with_prompt - without))


def is_text_to_image(spec: str) -> bool:
    """Whether ``spec`` is the folder of a text-to-image pipeline; a hub id is asked for its index.

    Raises:
        ImportError: a hub id, and diffusers is not installed.
        FileNotFoundError: nothing of that name on a hub that answers.
        ValueError: a folder of no pipeline.
    """
    return find_pipeline(spec, ("model_index.json",))[1].get("_class_name") in PIPELINES


def load_text_to_image(spec: str) -> TextToImage:
    """Load a StableDiffusionPipeline or a StableDiffusionXLPipeline.

    Args:
        spec: Folder that `save_pretrained` wrote, or the id of one on the Hugging Face hub.

    Raises:
        ImportError: diffusers or transformers is not installed.
        FileNotFoundError: There is no such folder, or no such pipeline on a hub that answers.
        ValueError: It is another pipeline, incomplete, has no safetensors, or a network or sampler that is not
            supported.
    """
    diffusers = import_library("diffusers")
    transformers = import_library("transformers", "a text-to-image pipeline")
    folder, index = find_pipeline(spec, _FILES, PIPELINES)
    is_xl = index["_class_name"] == "StableDiffusionXLPipeline"
    unet = load_network(diffusers.UNet2DConditionModel, folder / "unet")
    vae = load_network(diffusers.AutoencoderKL, folder / "vae")
    _check_supported(spec, unet.config, vae.config)
    scheduler, left_out = _ddim_scheduler(diffusers, folder, is_xl)
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler}
    for part, cls in list(_TEXT_ENCODERS.items())[: 2 if is_xl else 1]:
        # Old files hold the numbers of the positions beside the weights.
        parts[part] = load_network(getattr(transformers, cls), folder / part, "model", ("missing",))
        tokenizer = part.replace("text_encoder", "tokenizer")
        parts[tokenizer] = _tokenizer(transformers, folder / tokenizer)
    # The images are for the eyes of who runs the analysis; the safety checker would blacken some of them.
    others: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if is_xl:
        zeros = bool(index.get("force_zeros_for_empty_prompt", True))
        others = {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
    return TextToImage(getattr(diffusers, index["_class_name"])(**parts, **others), spec, left_out)


def _check_supported(spec: str, unet: Any, vae: Any) -> None:
    if unet.in_channels != vae.latent_channels:
        raise ValueError(
            f"{spec} must diffuse the {vae.latent_channels} channels of its codes alone, got a U-Net of "
            f"{unet.in_channels}: inpainting and depth models are not supported"
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise ValueError(
            f"{spec} must have no time_cond_proj_dim, got {unet.time_cond_proj_dim}: such models are not supported"
        )
    check_codes(spec, vae)


def _ddim_scheduler(diffusers: Any, folder: Path, is_xl: bool) -> tuple[Any, dict[str, Any]]:
    """DDIM with the settings of the pipeline's scheduler, as the pipeline would; and those that are left out."""
    config, left_out = read_scheduler(folder / "scheduler", diffusers.DDIMScheduler)
    # StableDiffusionPipeline sets the offset on every scheduler it is given.
    replaced = {"clip_sample": False} if is_xl else {"clip_sample": False, "steps_offset": 1}
    left_out |= {name: config[name] for name, value in replaced.items() if config.get(name, value) != value}
    return build_scheduler(folder, diffusers.DDIMScheduler, config | replaced), left_out


def _tokenizer(transformers: Any, place: Path) -> Any:
    if not place.is_dir():
        raise ValueError(f"{place} must hold a tokenizer of CLIP, got no such folder; fetch the pipeline anew")
    try:
        return transformers.CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # damaged files raise anything
        raise ValueError(f"{place} must hold a tokenizer of CLIP, got: {' '.join(str(error).split())[:300]}") from error
