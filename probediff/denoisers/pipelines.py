"""Read unconditional pipelines of diffusers, from a folder or from the Hugging Face hub.

Only JSON files and safetensors are read: no pickle, and no code that lies beside the weights.
"""

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from probediff.denoisers.predictions import PredictionModel
from probediff.schedule import NoiseSchedule

_PIPELINES = ("DDPMPipeline", "DDIMPipeline", "LDMPipeline")
_CLASSES = {
    "unet": ("UNet2DModel",),
    "scheduler": ("DDIMScheduler", "DDPMScheduler"),
    "vqvae": ("VQModel", "AutoencoderKL"),
}
#: What the `diffusers` convention of `probediff.ddim` does, by the names of a scheduler's settings.
_CONVENTION = {"set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading", "clip_sample_range": 1.0}
_WEIGHTS = "diffusion_pytorch_model"
# The decoder of a 256 x 256 image takes some 0.3 GB.
_AUTOENCODER_BATCH = 8
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
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
        autoencoder: of a latent diffusion model.
    """

    eps_model: PredictionModel
    schedule: NoiseSchedule
    schedule_name: str
    image_shape: tuple[int, int, int]
    clip: bool
    differences: dict[str, Any]
    autoencoder: Autoencoder | None


def load_pipeline(spec: str) -> Pipeline:
    """Load a DDPMPipeline, DDIMPipeline or unconditional LDMPipeline.

    An LDM whose autoencoder's configuration does not name a `scaling_factor` gets 1: such files are older than the
    setting, and current diffusers, which takes its default of 0.18215 for them, decodes them to noise
    (github.com/huggingface/diffusers/issues/6725, about CompVis/ldm-celebahq-256).

    Args:
        spec: Folder that `save_pretrained` wrote, or the id of one on the Hugging Face hub.

    Raises:
        ImportError: diffusers is not installed.
        FileNotFoundError: There is no such folder, or no such pipeline on a hub that answers.
        ValueError: It is another pipeline, conditional, incomplete, has no safetensors, or a schedule or sampler that
            cannot be probed.
    """
    folder, index = find_pipeline(spec, _FILES, _PIPELINES)
    scheduler = _component(folder, index, "scheduler")
    schedule = convert_schedule(spec, scheduler)
    unet = _component(folder, index, "unet")
    if unet.config.num_class_embeds is not None or unet.config.class_embed_type is not None:
        raise ValueError(f"{folder} must be unconditional, got a U-Net with classes: use one trained without them")
    autoencoder = None
    if index["_class_name"] == "LDMPipeline":
        vqvae = _component(folder, index, "vqvae")
        config = read_json(_part_folder(folder, "vqvae") / "config.json")
        autoencoder = Autoencoder(vqvae, float(config.get("scaling_factor", 1.0)))
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


def import_library(name: str, user: str = "a pipeline") -> Any:
    """A library of the extra ``hub``; raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {name}, which cannot be imported ({error}): pip install 'probediff[hub]'"
        ) from error


def find_pipeline(spec: str, files: Sequence[str], classes: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Folder of a pipeline, here or in the local cache of the hub, and its index.

    Args:
        spec: Folder, or id on the hub.
        files: Patterns of the files to fetch from the hub.
        classes: Of which its class must be one; any by default.

    Raises:
        ImportError: An id, and diffusers is not installed.
        FileNotFoundError: No such folder, and no such pipeline on a hub that answers.
        ValueError: It is no pipeline, or one of another class.
    """
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        import_library("diffusers")
        folder = _fetch(spec, files)
    index = read_json(folder / "model_index.json")
    if classes and index.get("_class_name") not in classes:
        raise ValueError(f"{spec} must be one of {', '.join(classes)}, got {index.get('_class_name')}")
    return folder, index


def _fetch(spec: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if not _HUB_ID.fullmatch(spec):
        raise FileNotFoundError(f"{spec} must be a file, a folder or the id of a pipeline on the hub, got none of them")
    try:
        return Path(snapshot_download(spec, allow_patterns=list(files)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{spec} is no folder here, and could not be fetched from the Hugging Face hub: check its name and the "
            f"network, or give a folder that holds the pipeline ({type(error).__name__}: {reason})"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a pipeline; raises ValueError where it is missing or holds no object."""
    if not path.is_file():
        raise ValueError(f"{path.parent} must hold a pipeline of diffusers, got a folder without {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def _part_folder(folder: Path, name: str) -> Path:
    """Where a part of a pipeline lies; old pipelines have no folder for each."""
    return folder / name if (folder / name).is_dir() else folder


def _component(folder: Path, index: dict[str, Any], name: str) -> Any:
    """The scheduler, the U-Net or the autoencoder of a pipeline."""
    _, class_name = index.get(name) or (None, None)
    if class_name not in _CLASSES[name]:
        raise ValueError(
            f"{folder} must be an unconditional pipeline with a {' or '.join(_CLASSES[name])} as {name}, got "
            f"{class_name or 'none'}"
        )
    cls = getattr(import_library("diffusers"), class_name)
    place = _part_folder(folder, name)
    if name != "scheduler":
        return load_network(cls, place)
    read_json(place / "scheduler_config.json")
    return cls.from_pretrained(place)


def load_network(
    cls: Any, place: Path, stem: str = _WEIGHTS, differences: Sequence[str] = ("missing", "unexpected")
) -> Any:
    """A network of diffusers or transformers with the weights beside its configuration, in float32 and eval mode.

    Args:
        cls: Its class.
        place: Its folder.
        stem: How the names of its files of weights begin.
        differences: In what files and network must not differ.

    Raises:
        ValueError: There are no safetensors, or not those of the configuration.
    """
    read_json(place / "config.json")
    if not list(place.glob(f"{stem}*.safetensors*")):
        raise ValueError(
            f"{place} must hold {stem}.safetensors, got {sorted(path.name for path in place.iterdir())}. Weights as "
            ".bin are pickles and are not read: load the pipeline with diffusers and write it anew with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if stem == _WEIGHTS:
        options["low_cpu_mem_usage"] = False
    # The network is initialised before its weights are read.
    with torch.random.fork_rng(devices=[]):
        try:
            model, info = cls.from_pretrained(place, torch_dtype=torch.float32, **options)
        except Exception as error:  # damaged files raise classes of safetensors, transformers and torch
            reason = " ".join(str(error).split())
            raise ValueError(f"{place} must hold the whole weights of its config.json, got: {reason}") from error
    if problems := [f"{kind} {key}" for kind in differences for key in sorted(info[f"{kind}_keys"])]:
        raise ValueError(
            f"{place} must hold the weights of its config.json, got {len(problems)} differences: "
            f"{'; '.join(problems[:5])}. Fetch or save it anew"
        )
    return model.eval().requires_grad_(False)


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
