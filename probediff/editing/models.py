"""Models that make images from given noises: runs, checkpoints, published models, text-to-image pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probediff.ddim import DDIMPath, as_predict
from probediff.denoisers.guidance import Prompt, check_guidance
from probediff.denoisers.text_to_image import is_text_to_image, load_text_to_image
from probediff.models import ProbeModel
from probediff.models.base import conventions_of, undisturbed
from probediff.models.exact import GAUSSIAN, is_exact
from probediff.models.published import is_checkpoint_file
from probediff.models.source import OF_RUNS, OF_STATE_DICTS, ModelChoice, find_source, published_convention
from probediff.runs.configuration import CONFIG
from probediff.runs.folder import CHECKPOINTS, PROBED
from probediff.schedule import Convention


@dataclass(frozen=True)
class Prompts:
    """What text-to-image models are told.

    Args:
        prompt: of the images to make.
        negative_prompt: what guidance leads away from.
        guidance_scale: of classifier-free guidance (P2, equation 2): 0 is unconditional, 1 the prompt alone, for Turbo
            models.
        source_prompt: of the images as they are, for DDIM inversion.
    """

    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 7.5
    source_prompt: str = ""

    def check(self, models: Sequence[str]) -> None:
        """Raise ValueError for options that the models do not take, before one is loaded, and as ``is_text_model``."""
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        takes_text = [is_text_model(model) for model in models]
        if given and not any(takes_text):
            raise ValueError(f"--{given[0]} needs a text-to-image model, got {', '.join(models)}")
        for model in compress(models, takes_text):
            check_guidance(model, self.for_images.guidance_scale)

    @property
    def for_images(self) -> Prompt:
        """What the images to make are asked with; raises ValueError for a scale that cannot be."""
        return Prompt(self.prompt, self.negative_prompt, self.guidance_scale)

    @property
    def for_inversion(self) -> Prompt:
        """What the images as they are are inverted with: their prompt alone, for guidance has no inverse."""
        return Prompt(self.source_prompt, guidance_scale=1.0)


@dataclass(frozen=True)
class EditableModel:
    """A model and how to sample it.

    Attributes:
        name: for people.
        probe: the model.
        path: number of DDIM steps and convention, None for the model's own -> the steps. It raises ValueError for a
            number of steps that cannot be.
        inverting: the denoiser for DDIM inversion: that of ``probe``, or under the prompt of the image and without
            guidance, which has no inverse.
        out: folder of results by default.
    """

    name: str
    probe: ProbeModel
    path: Callable[[int, Convention | None], DDIMPath]
    inverting: nn.Module
    out: Path

    def to(self, device: torch.device) -> EditableModel:
        """The same model, moved to a device."""
        for network in (self.probe.eps_model, self.inverting):
            network.to(device)
        return self


@dataclass(frozen=True)
class Sampler:
    """A model on its device with its steps; images and noises come and go on the CPU."""

    model: EditableModel
    path: DDIMPath
    batch_size: int

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.probe.weight.device

    def images(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        """Pixels (N, c, h, w) from states (N, C, H, W), which ``num_steps`` sampling steps, or all, lead to."""
        probe = self.model.probe
        return self._in_batches(lambda part: probe.pixels(self.path.sample(probe.predict, part, num_steps)), x)

    def codes(self, pixels: Tensor) -> Tensor:
        """What the model diffuses, (N, C, H, W), for pixels (N, c, h, w)."""
        return self._in_batches(self.model.probe.codes, pixels)

    def invert(self, codes: Tensor, num_steps: int) -> Tensor:
        """States (N, C, H, W) from which ``num_steps`` sampling steps lead back to about ``codes``."""
        predict = as_predict(self.model.inverting, self.model.probe.schedule)
        return self._in_batches(lambda part: self.path.invert(predict, part, num_steps), codes)

    def _in_batches(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with undisturbed(self.model.probe.eps_model):
            return torch.cat([function(part.to(self.device)).float().cpu() for part in rows.split(self.batch_size)])

    @property
    def conventions(self) -> dict[str, Any]:
        """What its images depend on, as plain types."""
        path = {"num_steps": len(self.path), "convention": self.path.convention, "clip": self.path.clip}
        return {"step": self.model.probe.step} | self.model.probe.conventions | path


def load_editable(choice: ModelChoice, prompts: Prompts) -> EditableModel:
    """What ``probediff probe`` takes, or a text-to-image pipeline.

    Raises:
        ImportError: a pipeline, and diffusers or transformers is not installed.
        FileNotFoundError: nothing of that name.
        ValueError: no model, or options that it does not take.
    """
    if is_text_model(choice.model):
        choice.refuse([*OF_RUNS, *OF_STATE_DICTS], "a text-to-image pipeline, which says it itself")
        return _load_text_model(choice.model, prompts)
    source = find_source(choice)
    # Edits by the Gaussian have always lain beside those by the network.
    probe, out = source.load_only(), source.out.parent if choice.model.startswith(GAUSSIAN) else source.out
    name = str(probe.conventions["model"]) if source.run is None else f"{source.run.name} step {probe.step}"
    if source.is_exact and source.run is not None:
        name = f"{source.run.name} {source.out.name}"

    def path(num_steps: int, convention: Convention | None) -> DDIMPath:
        return DDIMPath.of(probe.schedule, num_steps, convention or published_convention(probe), probe.clip)

    return EditableModel(name, probe, path, probe.eps_model, out)


def is_text_model(spec: str) -> bool:
    """Whether ``spec`` is a text-to-image pipeline; raises as ``is_text_to_image`` for what is no model at all."""
    path = Path(spec).expanduser()
    is_run = (path / CHECKPOINTS).is_dir() or (path / CONFIG).is_file()
    is_own = is_exact(spec) or is_run or is_checkpoint_file(path)
    return not is_own and is_text_to_image(spec)


def _load_text_model(spec: str, prompts: Prompts) -> EditableModel:
    pipeline, name = load_text_to_image(spec), Path(spec).expanduser().resolve().name
    prompt = prompts.for_images
    eps_model, schedule, shape = pipeline.eps_model(prompt), pipeline.schedule, pipeline.image_shape
    conventions = conventions_of(eps_model, pipeline.schedule_name, schedule, shape, model=name, source="diffusers")
    conventions |= pipeline.conventions(prompt)
    coder = pipeline.autoencoder
    probe = ProbeModel(eps_model, schedule, shape, 0, conventions, False, coder.decode, coder.encode)

    def path(num_steps: int, convention: Convention | None) -> DDIMPath:
        if convention == "openai":
            raise ValueError(f"--convention must be 'diffusers' for {name}, got 'openai'; leave it out")
        return pipeline.path(num_steps)

    return EditableModel(name, probe, path, pipeline.eps_model(prompts.for_inversion), Path(PROBED))
