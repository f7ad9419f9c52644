"""Classifier-free guidance as equation 2 of P2 (*First-step inference*) has it, at every scale."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from probediff.ddim import as_predict
from probediff.denoisers.guidance import GUIDANCE, Prompt, check_guidance
from probediff.denoisers.text_to_image import TextToImage, load_text_to_image
from probediff.editing.models import Prompts
from tests.reference.tiny_text_to_image import own_pipeline, save_pipeline

#: No pipeline of Turbo: Stable Diffusion 1.5, 2.1 with prediction of v, and SDXL.
KINDS = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    found = {kind: save_pipeline(root / kind, "sdxl_turbo" if kind == "sdxl" else kind) for kind in KINDS}
    change(found["sdxl"] / "scheduler" / "scheduler_config.json", timestep_spacing="leading")
    return found


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, TextToImage]:
    return {kind: load_text_to_image(str(folder)) for kind, folder in folders.items()}


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def start(num: int = 2) -> Tensor:
    return torch.randn(num, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def guided_by_diffusers(folder: Path, prompt: Prompt) -> Tensor:
    """Images of diffusers' own loop, which mixes two predictions at whatever scale once it is told to guide."""
    own = own_pipeline(folder)
    twin = type("Guided", (type(own),), {"do_classifier_free_guidance": property(lambda self: True)})
    own = twin(**own.components)
    own.set_progress_bar_config(disable=True)
    made = own(
        prompt=[prompt.text] * 2,
        negative_prompt=[prompt.negative] * 2 if prompt.negative else None,
        guidance_scale=prompt.guidance_scale,
        num_inference_steps=3,
        latents=start() / own.scheduler.init_noise_sigma,
        output_type="pt",
    )
    return 2 * made.images - 1


@pytest.mark.parametrize("negative", ["a dog", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_at_every_scale_the_images_are_those_of_diffusers_guided_loop(
    folders: dict[str, Path], models: dict[str, TextToImage], kind: str, negative: str
) -> None:
    model, made = models[kind], []
    for scale in (0.0, 0.5, 1.0, 7.5):
        prompt = Prompt("a cat", negative, scale)
        codes = model.path(3).sample(as_predict(model.eps_model(prompt), model.schedule), start())
        made.append(model.autoencoder.decode(codes))
        torch.testing.assert_close(made[-1], guided_by_diffusers(folders[kind], prompt), rtol=0, atol=2e-4)
    assert min(float((made[0] - other).abs().mean()) for other in made[1:]) > 1e-4


@torch.no_grad()
def test_the_scales_0_and_1_ask_the_network_once_and_all_mix_by_the_equation(models: dict[str, TextToImage]) -> None:
    model, x, timestep, rows = models["sd15"], start(), torch.tensor([40, 40]), []

    def eps(scale: float, text: str = "a cat", negative: str = "a dog") -> Tensor:
        network = model.eps_model(Prompt(text, negative, scale))
        with pytest.MonkeyPatch.context() as patch:
            forward = model._pipeline.unet.forward
            count = lambda x, *others, **named: rows.append(len(x)) or forward(x, *others, **named)  # noqa: E731
            patch.setattr(model._pipeline.unet, "forward", count)
            return network(x, timestep)

    unconditional, conditional = eps(0.0), eps(1.0)
    assert torch.equal(unconditional, eps(1.0, "a dog", "ignored"))
    assert torch.equal(conditional, eps(1.0, "a cat", "ignored"))
    for scale in (0.25, 0.5, 3.0, 7.5):
        expected = (1 - scale) * unconditional + scale * conditional
        torch.testing.assert_close(eps(scale), expected, rtol=0, atol=2e-5)
    assert rows == [2, 2, 2, 2, 4, 4, 4, 4]
    assert float((unconditional - conditional).abs().max()) > 1e-3
    assert GUIDANCE.startswith("(1 - scale) eps of the negative prompt + scale eps of the prompt, at every scale")
    assert model.conventions(Prompt())["guidance"] == GUIDANCE


@given(scale=st.one_of(st.floats(max_value=-1e-9), st.sampled_from([math.nan, math.inf])))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_scales_that_cannot_be(scale: float) -> None:
    with pytest.raises(ValueError, match=r"guidance_scale must be 0 or more and finite, got .*give it as the negative"):
        Prompts("a cat", guidance_scale=scale).for_images  # noqa: B018


TURBO: dict[str, dict[str, Any]] = {
    "sd": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
    "sdxl": {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
    "my-SD-Turbo": {"_class_name": "DDIMScheduler"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "sd15": {"_class_name": "PNDMScheduler"},
    "euler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    "zero-snr": {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"},
}


def index(folder: Path, scheduler: dict[str, Any], **more: Any) -> Path:
    """The files of a pipeline that say what it is."""
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **more}))
    return folder


@pytest.mark.parametrize("name", [*TURBO, *OTHERS])
def test_a_scale_of_0_is_refused_for_turbo_before_a_model_is_loaded(tmp_path: Path, name: str) -> None:
    folder = index(tmp_path / "turbo models" / name, TURBO.get(name) or OTHERS[name])
    Prompts(guidance_scale=1.0).check([str(folder)])
    if name in OTHERS:
        Prompts(guidance_scale=0.0).check([str(folder)])
        return
    with pytest.raises(ValueError, match=r"guidance_scale must be above 0 for .*, a Turbo pipeline, got 0.*; give 1,"):
        Prompts(guidance_scale=0.0).check([str(folder)])


def test_a_copy_of_turbo_is_known_by_where_it_came_from(tmp_path: Path) -> None:
    folder = index(tmp_path / "copy", OTHERS["sd15"], _name_or_path="stabilityai/sd-turbo")
    with pytest.raises(ValueError, match="a Turbo pipeline, got 0"):
        check_guidance(str(folder), 0.0)


def test_a_turbo_model_without_commands(tmp_path: Path) -> None:
    model = load_text_to_image(str(save_pipeline(tmp_path / "fast", "sd_turbo")))
    with pytest.raises(ValueError, match="a Turbo pipeline, got 0"):
        model.eps_model(Prompt("a cat", guidance_scale=0.0))
    assert model.eps_model(Prompt("a cat", guidance_scale=1.0)) is not None
