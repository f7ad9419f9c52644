"""Models that make images from given noises: runs, checkpoints, published models, text-to-image pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probediff.ddim import DDIMPath, as_predict
from probediff.denoisers.text_to_image import Prompt, is_text_to_image, load_text_to_image
from probediff.models import ProbeModel, fit_gaussian
from probediff.models.base import conventions_of, undisturbed
from probediff.models.published import is_checkpoint_file
from probediff.models.source import ModelChoice, find_source, published_convention
from probediff.schedule import Convention

GAUSSIAN = "gaussian:"


@dataclass(frozen=True)
class Prompts:
    """What text-to-image models are told.

    Args:
        prompt: of the images to make.
        negative_prompt: what guidance leads away from.
        guidance_scale: of classifier-free guidance; 0 for Turbo models.
        source_prompt: of the images as they are, for DDIM inversion.
    """

    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 7.5
    source_prompt: str = ""

    def check(self, models: Sequence[str]) -> None:
        """Raise ValueError for a prompt that none of the models takes, and as ``is_text_model``."""
        takes_text = [is_text_model(model) for model in models]
        if (self.prompt or self.negative_prompt) and not any(takes_text):
            raise ValueError(f"--prompt needs a text-to-image model, got {', '.join(models)}")


@dataclass(frozen=True)
class EditableModel:
    """A model and how to sample it.

    Attributes:
        name: for people.
        probe: the model.
        path: number of DDIM steps and convention, None for the model's own -> the steps.
        inverting: the denoiser for DDIM inversion: that of ``probe``, or under the prompt of the image and without
            guidance, which has no inverse.
        out: folder of results by default.
    """

    name: str
    probe: ProbeModel
    path: Callable[[int, Convention | None], DDIMPath]
    inverting: nn.Module
    out: Path


@dataclass(frozen=True)
class Sampler:
    """A model on its device with its steps; images and noises come and go on the CPU."""

    model: EditableModel
    path: DDIMPath
    device: torch.device
    batch_size: int

    @classmethod
    def of(
        cls, model: EditableModel, num_steps: int, convention: Convention | None, device: torch.device, batch_size: int
    ) -> Sampler:
        """Move the model to the device; raises ValueError for a number of steps that cannot be."""
        path = model.path(num_steps, convention)
        for network in (model.probe.eps_model, model.inverting):
            network.to(device)
        return cls(model, path, device, batch_size)

    def images(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        """Pixels (N, c, h, w) from states (N, C, H, W), which ``num_steps`` sampling steps, or all, lead to."""
        predict, decode = self.model.probe.predict, self.model.probe.decode

        def made(part: Tensor) -> Tensor:
            x_0 = self.path.sample(predict, part, num_steps)
            return x_0 if decode is None else decode(x_0)

        return self._batched(made, x)

    def codes(self, pixels: Tensor) -> Tensor:
        """What the model diffuses, (N, C, H, W), for pixels (N, c, h, w)."""
        encode = self.model.probe.encode
        return pixels if encode is None else self._batched(encode, pixels)

    def inverted(self, codes: Tensor, num_steps: int) -> Tensor:
        """States (N, C, H, W) from which ``num_steps`` sampling steps lead back to about ``codes``."""
        predict = as_predict(self.model.inverting, self.model.probe.schedule)
        return self._batched(lambda part: self.path.invert(predict, part, num_steps), codes)

    def _batched(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with undisturbed(self.model.probe.eps_model):
            return torch.cat([function(part.to(self.device)).float().cpu() for part in rows.split(self.batch_size)])

    @property
    def conventions(self) -> dict[str, Any]:
        """What its images depend on, as plain types."""
        made = {"num_steps": len(self.path), "convention": self.path.convention, "clip": self.path.clip}
        return {"step": self.model.probe.step} | self.model.probe.conventions | made


def load_editable(choice: ModelChoice, prompts: Prompts) -> EditableModel:
    """What ``probediff probe`` takes, a text-to-image pipeline, or ``gaussian:RUN``, the baseline of a run's images.

    Raises:
        ImportError: a pipeline, and diffusers or transformers is not installed.
        FileNotFoundError: nothing of that name.
        ValueError: no model, or options that it does not take.
    """
    if choice.model.startswith(GAUSSIAN):
        run = Path(choice.model.removeprefix(GAUSSIAN))
        return _plain("gaussian", fit_gaussian(run), run / "probes")
    if is_text_model(choice.model):
        return _text_to_image(choice.model, prompts)
    source = find_source(choice)
    probe = source.load(source.steps[-1])
    name = str(probe.conventions["model"]) if source.run is None else f"{source.run.name} step {probe.step}"
    return _plain(name, probe, source.out)


def is_text_model(spec: str) -> bool:
    """Whether ``spec`` is a text-to-image pipeline; raises as ``is_text_to_image`` for what is no model at all."""
    path = Path(spec).expanduser()
    is_run = (path / "checkpoints").is_dir() or (path / "config.yaml").is_file()
    is_own = spec.startswith(GAUSSIAN) or is_run or is_checkpoint_file(path)
    return not is_own and is_text_to_image(spec)


def _plain(name: str, probe: ProbeModel, out: Path) -> EditableModel:
    own = published_convention(probe)

    def path(num_steps: int, convention: Convention | None) -> DDIMPath:
        return DDIMPath.of(probe.schedule, num_steps, convention or own, probe.clip)

    return EditableModel(name, probe, path, probe.eps_model, out)


def _text_to_image(spec: str, prompts: Prompts) -> EditableModel:
    pipeline = load_text_to_image(spec)
    prompt = Prompt(prompts.prompt, prompts.negative_prompt, prompts.guidance_scale)
    source = Prompt(prompts.source_prompt, "", 0.0)
    eps_model, name = pipeline.eps_model(prompt), Path(spec).expanduser().resolve().name
    conventions = conventions_of(
        eps_model, pipeline.schedule_name, pipeline.schedule, pipeline.image_shape, model=name, source="diffusers"
    )
    conventions |= {"prompt": prompt.text, "negative_prompt": prompt.negative, "guidance_scale": prompt.guidance_scale}
    conventions |= pipeline.spacing
    coder = pipeline.autoencoder
    probe = ProbeModel(
        eps_model, pipeline.schedule, pipeline.image_shape, 0, conventions, False, coder.decode, coder.encode
    )

    def path(num_steps: int, convention: Convention | None) -> DDIMPath:
        if convention == "openai":
            raise ValueError(f"--convention must be 'diffusers' for {name}, got 'openai'; leave it out")
        return pipeline.path(num_steps)

    return EditableModel(name, probe, path, pipeline.eps_model(source), Path("probes"))
