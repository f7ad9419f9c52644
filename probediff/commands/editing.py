"""What the commands that make images from noises share: options, loading of a model, and what results depend on."""

import sys
from dataclasses import fields
from typing import Any

from probediff.commands.options import MODEL_HELP, CommandParser, WholeNumbers, device_of, pick
from probediff.editing.models import EditableModel, Prompts, Sampler, load_editable
from probediff.models.base import conditions_of
from probediff.models.images import Space
from probediff.models.source import ModelChoice
from probediff.whitening.statistics import Statistics, StatisticsSource

IMAGE_MODEL_HELP = f"{MODEL_HELP}; gaussian:RUN; or a Stable Diffusion or SDXL pipeline (folder or hub id)"


def add_sampling_options(parser: CommandParser, out: str, takes_source_prompt: bool) -> None:
    """How models are loaded and sampled, and what is shown of the results."""
    parser.add_argument("--num_shown", type=int, default=8, help="images in pictures")
    parser.add_argument(
        "--num_steps", type=WholeNumbers, default=WholeNumbers([50]), help="DDIM steps from noise to image"
    )
    skip: set[str | int] = set() if takes_source_prompt else {"source_prompt"}
    parser.add_class_arguments(Prompts, as_group=True, skip=skip)
    parser.add_model_options(out, skip={"num_samples"})
    parser.set_defaults({"settings.batch_size": 16})


def load_sampler(options: Any, model: str) -> Sampler:
    """A model on its device, ready to make images under the prompts."""
    settings = options.settings
    if len(options.num_steps) != 1:
        raise ValueError(f"--num_steps must be one number here, got {options.num_steps}")
    several = isinstance(options.model, list) and len(options.model) > 1
    editable = load_editable(pick(ModelChoice, options, model=model, among_others=several), pick(Prompts, options))
    path = editable.path(options.num_steps[0], settings.convention)
    return Sampler(editable.to(device_of(options)), path, settings.batch_size)


def describe_sampler(sampler: Sampler) -> dict[str, Any]:
    """All that images of a model depend on, and the conditions; prompts are None where the model takes none."""
    prompts = dict.fromkeys(field.name for field in fields(Prompts) if field.name != "source_prompt")
    weights = {"weights_sha256": sampler.model.probe.digest}
    conditions = conditions_of(sampler.device) | {"batch_size": sampler.batch_size}
    return prompts | sampler.conventions | weights | conditions


def describe_statistics(options: Any, space: Space, model: EditableModel | None) -> Statistics:
    """The whitening statistics that the options mean, before they are computed; says which are there already."""
    has_codes = model is not None and model.probe.encode is not None
    codes = {"weights_sha256": model.probe.digest} if model is not None and has_codes else {}
    statistics = pick(StatisticsSource, options).describe(space, codes)
    if statistics.there is not None:
        print(f"the statistics are there already: {statistics.there}", file=sys.stderr)
    return statistics
