"""Published models: OpenAI's checkpoints and pipelines of diffusers."""

import warnings
from pathlib import Path

from probediff.denoisers import load_openai_network, load_pipeline, openai_eps_model, published_process
from probediff.models.base import ProbeModel, conventions_of
from probediff.schedule import NoiseSchedule, ScheduleName

_FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")


def load_published(
    spec: str,
    schedule: ScheduleName | None = None,
    num_train_timesteps: int | None = None,
    num_heads: int | None = None,
) -> ProbeModel:
    """Load a published, unconditional diffusion model.

    Args:
        spec: a checkpoint of improved-diffusion or guided-diffusion (.pt, read without unpickling code, or
            .safetensors); or the folder or hub id of a DDPMPipeline, DDIMPipeline or LDMPipeline of diffusers, which
            needs ``pip install 'probediff[hub]'``.
        schedule: schedule of an OpenAI checkpoint; by default that of the published networks of this architecture
            (``published_process``).
        num_train_timesteps: its length; by default likewise.
        num_heads: attention heads of an OpenAI checkpoint, for networks other than the published ones.

    Raises:
        ImportError: a pipeline, and diffusers is not installed.
        FileNotFoundError: nothing of that name, here or on the hub.
        ValueError: not such a model, an incomplete one, or an option that only OpenAI checkpoints have.
    """
    path = Path(spec).expanduser()
    if is_checkpoint_file(path):
        return _from_openai(path, schedule, num_train_timesteps, num_heads)
    options = {"schedule": schedule, "num_train_timesteps": num_train_timesteps, "num_heads": num_heads}
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} must be left out for a pipeline, which says it itself, got {value!r} for {spec}")
    return _from_pipeline(spec)


def is_checkpoint_file(path: Path) -> bool:
    """Whether a path is meant as a file of weights, there or not, and not as a folder or an id of the hub."""
    return path.is_file() or (path.suffix in _FILE_SUFFIXES and not path.is_dir())


def _from_openai(
    path: Path, schedule_name: ScheduleName | None, num_train_timesteps: int | None, num_heads: int | None
) -> ProbeModel:
    network = load_openai_network(path, num_heads)
    published_name, published_length = published_process(network)
    name = published_name if schedule_name is None else schedule_name
    schedule = NoiseSchedule.from_name(name, published_length if num_train_timesteps is None else num_train_timesteps)
    eps_model = openai_eps_model(network.requires_grad_(False), len(schedule))
    shape = (network.in_channels, network.image_size, network.image_size)
    conventions = conventions_of(eps_model, name, schedule, shape, model=path.stem, source="openai")
    return ProbeModel(eps_model, schedule, shape, 0, conventions)


def _from_pipeline(spec: str) -> ProbeModel:
    pipeline = load_pipeline(spec)
    eps_model, schedule, shape = pipeline.eps_model.requires_grad_(False), pipeline.schedule, pipeline.image_shape
    name = Path(spec).expanduser().resolve().name
    conventions = conventions_of(eps_model, pipeline.schedule_name, schedule, shape, model=name, source="diffusers")
    if pipeline.differences:
        conventions["scheduler_differences"] = pipeline.differences
        warnings.warn(
            f"the scheduler of {spec} samples with {pipeline.differences}, which neither DDIM convention here has: "
            "samples and latents will not be those of the pipeline's own sampler",
            stacklevel=3,
        )
    autoencoder = pipeline.autoencoder
    decode, encode = (autoencoder.decode, autoencoder.encode) if autoencoder else (None, None)
    return ProbeModel(eps_model, schedule, shape, 0, conventions, pipeline.clip, decode, encode)
