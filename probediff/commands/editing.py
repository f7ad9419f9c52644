"""What the commands that make images from noises share: options and loading of a model."""

from typing import Any

from probediff.commands.options import CommandParser, WholeNumbers, device_of, pick
from probediff.editing.models import Prompts, Sampler, load_editable
from probediff.models.source import ModelChoice

MODEL_HELP = "what `probediff probe` takes; a Stable Diffusion or SDXL pipeline (folder or hub id); or gaussian:RUN"


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
    editable = load_editable(pick(ModelChoice, options, model=model), pick(Prompts, options))
    path = editable.path(options.num_steps[0], settings.convention)
    return Sampler(editable.to(device_of(options)), path, settings.batch_size)
