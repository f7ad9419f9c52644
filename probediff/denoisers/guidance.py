"""What a text-to-image model is asked, and how much of it: classifier-free guidance.

P2 is *First-step inference in diffusion models learns image de-whitening*; guidance is that of Ho & Salimans (2022).
"""

import math
from dataclasses import dataclass
from pathlib import Path

from probediff.denoisers.pipeline_files import find_pipeline, read_json

#: What is done with a scale, in words, for the records.
GUIDANCE = "(1 - scale) eps of the negative prompt + scale eps of the prompt, at every scale; 0 is unconditional"
#: With trailing timesteps these samplers are those of SD-Turbo and SDXL-Turbo.
_TURBO_SAMPLERS = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


@dataclass(frozen=True)
class Prompt:
    """What is asked of a text-to-image model.

    Attributes:
        text: of the image; empty for none.
        negative: what guidance leads away from.
        guidance_scale: w of P2's equation 2, eps = (1 - w) eps of the negative prompt + w eps of the prompt: 0 is
            unconditional, 1 the prompt alone, as the Turbo models want; both ask the network once.

    Raises:
        ValueError: a scale that is negative or not finite.
    """

    text: str = ""
    negative: str = ""
    guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(
                f"guidance_scale must be 0 or more and finite, got {self.guidance_scale}; to lead away from a prompt, "
                f"give it as the negative one"
            )


def check_guidance(spec: str, guidance_scale: float) -> None:
    """Raise ValueError for a scale of 0 on a Turbo pipeline: diffusers calls 0 what is 1 here, the prompt alone.

    A pipeline is a Turbo one where its name says so, or its scheduler is one that the published ones have. Nothing is
    lost where that is wrong: unconditional is also the negative prompt as the prompt, at 1.
    """
    if guidance_scale == 0 and _is_turbo(spec):
        raise ValueError(
            f"guidance_scale must be above 0 for {spec}, a Turbo pipeline, got 0, which is unconditional here; give 1, "
            f"the prompt alone, which diffusers calls 0"
        )


def _is_turbo(spec: str) -> bool:
    folder, index = find_pipeline(spec, ("model_index.json", "scheduler/*.json"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    names = (Path(spec).expanduser().resolve().name, str(index.get("_name_or_path", "")).rpartition("/")[2])
    is_published_so = (
        scheduler.get("_class_name") in _TURBO_SAMPLERS and scheduler.get("timestep_spacing") == "trailing"
    )
    return is_published_so or any("turbo" in name.lower() for name in names)
