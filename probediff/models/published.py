"""Published models: OpenAI's checkpoints and pipelines of diffusers."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probediff.denoisers import OpenAICheckpoint, load_pipeline, openai_eps_model
from probediff.denoisers.openai import PublishedNetwork
from probediff.models.base import ProbeModel, conventions_of
from probediff.schedule import NoiseSchedule, ScheduleName

#: What the tensors of an OpenAI checkpoint do not say, with an example of each.
_EXAMPLE = {"image_size": 64, "num_heads": 4, "schedule": "cosine", "num_train_timesteps": 4000}
_FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")


def load_published(
    spec: str,
    schedule: ScheduleName | None = None,
    num_train_timesteps: int | None = None,
    num_heads: int | None = None,
    image_size: int | None = None,
    num_head_channels: int | None = None,
) -> ProbeModel:
    """Load a published, unconditional diffusion model.

    The tensors of an OpenAI checkpoint do not say the other arguments. Where its architecture is that of a published
    network (``probediff.denoisers.openai.PUBLISHED``) those of the network are the defaults; where it is not, the
    arguments are needed, for wrong ones would change the numbers and nothing else.

    Args:
        spec: a checkpoint of improved-diffusion or guided-diffusion (.pt, read without unpickling code, or
            .safetensors); or the folder or hub id of a DDPMPipeline, DDIMPipeline or LDMPipeline of diffusers, which
            needs ``pip install 'probediff[hub]'``.
        schedule: schedule of an OpenAI checkpoint.
        num_train_timesteps: its length.
        num_heads: attention heads of an OpenAI checkpoint.
        image_size: pixels of an OpenAI checkpoint.
        num_head_channels: channels a head of an OpenAI checkpoint, instead of a fixed number of heads.

    Raises:
        ImportError: a pipeline, and diffusers is not installed.
        FileNotFoundError: nothing of that name, here or on the hub.
        ValueError: not such a model, an incomplete one, an argument that only OpenAI checkpoints have, or one that is
            needed and left out.
    """
    options = {
        "image_size": image_size,
        "num_heads": num_heads,
        "num_head_channels": num_head_channels,
        "schedule": schedule,
        "num_train_timesteps": num_train_timesteps,
    }
    given = {name: value for name, value in options.items() if value is not None}
    path = Path(spec).expanduser()
    if is_checkpoint_file(path):
        return _from_openai(OpenAICheckpoint.read(path), given)
    for name, value in given.items():
        raise ValueError(f"{name} must be left out for a pipeline, which says it itself, got {value!r} for {spec}")
    return _from_pipeline(spec)


def is_checkpoint_file(path: Path) -> bool:
    """Whether a path is meant as a file of weights, there or not, and not as a folder or an id of the hub."""
    return path.is_file() or (path.suffix in _FILE_SUFFIXES and not path.is_dir())


def _from_openai(checkpoint: OpenAICheckpoint, given: dict[str, Any]) -> ProbeModel:
    published = checkpoint.published
    if published is None:
        _check_nothing_is_missing(checkpoint, given)
        facts = given
    else:
        facts = _published_facts(published) | given
        _tell_departures(checkpoint, given, published)
    untold = checkpoint.untold(*(given.get(name) for name in ("image_size", "num_heads", "num_head_channels")))
    schedule = NoiseSchedule.from_name(facts["schedule"], facts["num_train_timesteps"])
    network = checkpoint.network(untold).requires_grad_(False)
    eps_model = openai_eps_model(network, len(schedule))
    shape = (network.in_channels, untold.image_size, untold.image_size)
    conventions = conventions_of(
        eps_model,
        facts["schedule"],
        schedule,
        shape,
        model=checkpoint.path.stem,
        source="openai",
        weights="as published",
        architecture=str(checkpoint.architecture) if published is None else published.name,
        num_heads=untold.num_heads,
        num_head_channels=untold.num_head_channels,
        attention_order="head, q k v",
        timestep_scale=1000 / len(schedule) if eps_model.rescale_timesteps else 1.0,
    )
    return ProbeModel(eps_model, schedule, shape, 0, conventions)


def _published_facts(published: PublishedNetwork) -> dict[str, Any]:
    process = {"schedule": published.schedule, "num_train_timesteps": published.num_train_timesteps}
    return asdict(published.untold) | process


def _check_nothing_is_missing(checkpoint: OpenAICheckpoint, given: dict[str, Any]) -> None:
    """Raise ValueError for an architecture that was not published and something that its tensors do not say."""
    heads = {"num_heads", "num_head_channels"}
    missing = [name for name in _EXAMPLE if name not in given and not (name in heads and heads & given.keys())]
    if missing:
        example = " ".join(f"--{name} {_EXAMPLE[name]}" for name in missing)
        raise ValueError(
            f"{', '.join(missing)} must be given for {checkpoint.path}, got {', '.join(given) or 'none of them'}: its "
            f"architecture ({checkpoint.architecture}) is none of OpenAI's, and its tensors do not say these. Take "
            f"them from its training, for example {example} (or --num_head_channels)"
        )


def _tell_departures(checkpoint: OpenAICheckpoint, given: dict[str, Any], published: PublishedNetwork) -> None:
    facts = _published_facts(published)
    for name, value in given.items():
        if value != facts[name]:
            warnings.warn(
                f"{name} {value} was given for {checkpoint.path}, whose architecture is that of {published.name}, "
                f"which has {'none' if facts[name] is None else facts[name]}",
                stacklevel=4,
            )


def _from_pipeline(spec: str) -> ProbeModel:
    pipeline = load_pipeline(spec)
    eps_model, schedule, shape = pipeline.eps_model.requires_grad_(False), pipeline.schedule, pipeline.image_shape
    name = Path(spec).expanduser().resolve().name
    conventions = conventions_of(eps_model, pipeline.schedule_name, schedule, shape, model=name, source="diffusers")
    conventions |= pipeline.conventions
    if pipeline.differences:
        warnings.warn(
            f"the scheduler of {spec} samples with {pipeline.differences}, which neither DDIM convention here has: "
            "samples and latents will not be those of the pipeline's own sampler",
            stacklevel=3,
        )
    autoencoder = pipeline.autoencoder
    decode, encode = (autoencoder.decode, autoencoder.encode) if autoencoder else (None, None)
    return ProbeModel(eps_model, schedule, shape, 0, conventions, pipeline.clip, decode, encode)
