"""The command edit, on a run, on its Gaussian and on text-to-image pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.commands.edit import _structure_kept, edit
from probediff.editing.models import Prompts, Sampler, load_editable
from probediff.editing.sdedit import edit_images
from probediff.models.images import read_images
from probediff.models.source import ModelChoice
from tests.commands.conftest import SAMPLING, SEARCH, failing, record
from tests.reference.tiny_text_to_image import SCHEDULERS


def test_edit_orders_the_three_kinds_of_noise(
    tiny_run: Path, searched: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", f"gaussian:{tiny_run}", "--strengths", "0.5,0.75"]
    options += ["--statistics", str(searched / "statistics.safetensors"), *SEARCH]
    steps = ["--num_steps", "40", "--batch_size", "7", "--out", str(tmp_path)]
    assert edit([str(digits), *options, *steps]) == 0
    made = record(tmp_path / "edit.json")
    assert [(one["strength"], one["noise"], one["steps_done"]) for one in made["edits"]] == [
        (strength, kind, count) for strength, count in ((0.5, 20), (0.75, 30)) for kind in ("random", "found", "ddim")
    ]
    for start in (0, 3):
        random, found, ddim = made["edits"][start : start + 3]
        assert random["distance"] > found["distance"] > ddim["distance"]
        assert random["ssim"] < found["ssim"] < ddim["ssim"]
        assert np.shape(random["ssim_of_each"]) == np.shape(found["ssim_of_each"]) == (6, 2)
    assert [test["strength"] for test in made["tests"]] == [0.5, 0.75]
    assert made["conventions"]["search"]["loss"] == "forward"
    # Two strengths share the rate of 5 %; six images cannot pass it, and seven can.
    assert "6 images are too few to tell found noise from random noise" in capsys.readouterr().out
    assert (tmp_path / "edit.png").is_file()


@given(
    p_value=st.floats(1e-6, 1),
    num_images=st.integers(2, 12),
    num_tests=st.integers(1, 5),
    found=st.sampled_from([0.2, 0.7]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_sentences_hold_together(p_value: float, num_images: int, num_tests: int, found: float) -> None:
    """All strengths share one rate of false alarms, and what no p can show is not called equal."""
    test = {"strength": 0.5, "ssim": {"found": found, "others": 0.5, "p_value": p_value}}
    words = _structure_kept(test, num_images, num_tests)
    level = 1 - 0.95 ** (1 / num_tests)
    if 2 / 2**num_images >= level:
        assert f"{num_images} images are too few to tell" in words
    elif p_value >= level:
        assert "no clearly different structure from random noise" in words
    else:
        assert f"keeps {'more' if found > 0.5 else 'less'} structure than random noise" in words
    assert f"p = {p_value:.2g}" in words


def test_an_edit_of_a_run_without_a_search(tiny_run: Path, digits: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_run), "--strengths", "1", "--noises", "ddim,random", "--num_chains", "2"]
    assert edit([str(digits), *options, *SAMPLING, "--out", str(tmp_path)]) == 0
    made = record(tmp_path / "edit.json")
    assert [one["noise"] for one in made["edits"]] == ["random", "ddim"]
    assert made["tests"] == []
    assert made["conventions"]["step"] == 4


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_edits_by_text_to_image_models(
    pipelines: dict[str, Path], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    options = ["--model", str(pipelines[kind]), "--images", str(photographs), "--ridge", "0.1", *SEARCH]
    text = ["--prompt", "a cat", "--source_prompt", "a dog", "--guidance_scale", "2", "--strengths", "0.3,0.8"]
    steps = ["--num_steps", "10", "--out", str(tmp_path)]
    assert edit([str(photographs / "image0.png"), str(photographs / "image1.png"), *options, *text, *steps]) == 0
    made = record(tmp_path / "edit.json")
    assert made["conventions"]["source_prompt"] == "a dog"
    assert [(one["noise"], one["steps_done"]) for one in made["edits"]] == [
        (noise, count) for count in (3, 8) for noise in ("random", "found", "ddim")
    ]
    assert len({one["distance"] for one in made["edits"]}) == 6
    printed = capsys.readouterr().out
    assert "2 images are too few to tell found noise from random noise" in printed
    assert "it cannot fall below 0.5)" in printed
    assert (tmp_path / "edit.png").is_file()


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_under_the_images_own_prompt_the_ddim_latent_leads_back(
    pipelines: dict[str, Path], photographs: Path, kind: str
) -> None:
    prompts = Prompts("a dog", guidance_scale=1.0, source_prompt="a dog")
    model = load_editable(ModelChoice(str(pipelines[kind])), prompts)
    sampler = Sampler(model, model.path(90, None), 4)
    images = read_images([photographs / "image0.png", photographs / "image1.png"], (3, 16, 16))
    noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    back = edit_images(sampler, images, 0.4, "ddim").images[:, 0]
    random = edit_images(sampler, images, 0.4, "random", noise).images[:, 0]
    # An untrained autoencoder does not return the image, so the decoded codes stand for it.
    decode = sampler.model.probe.decode
    assert decode is not None
    returned = decode(sampler.codes(images))
    assert float((back - returned).norm()) < 0.4 * float((random - returned).norm())


def test_wrong_input_of_edit(tiny_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [digits, "--model", tiny_run, *SAMPLING]
    assert "--strengths must be numbers in (0, 1]" in failing(edit, [*common, "--strengths", "0.3,2"], capsys)
    assert "--strengths must be numbers in (0, 1]" in failing(edit, [*common, "--strengths", "some"], capsys)
    for kinds in ("found,mine", "ddim,ddim"):
        assert "--noises must be some of random,found,ddim" in failing(edit, [*common, "--noises", kinds], capsys)
    assert "must come from one of --run, --images, --statistics" in failing(edit, common, capsys)


def test_openais_convention_is_none_of_a_text_to_image_model(
    pipelines: dict[str, Path], photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [photographs, "--model", pipelines["sd_turbo"], "--noises", "random", *SAMPLING]
    assert "--convention must be 'diffusers' for sd_turbo" in failing(edit, [*common, "--convention", "openai"], capsys)
    assert "num_steps must be an integer in 1..100, got 101" in failing(edit, [*common, "--num_steps", 101], capsys)
