"""The commands search-noise, vary and edit from the command line, on a run and on the text-to-image classes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from probediff.commands.edit import edit
from probediff.commands.search_noise import search_noise
from probediff.commands.vary import vary
from probediff.data import Digits
from probediff.editing.models import Prompts, Sampler, load_editable
from probediff.editing.noises import FoundNoises
from probediff.editing.sdedit import edit_images
from probediff.measures.whitening import WhiteningTransform
from probediff.models.images import read_images
from probediff.models.source import ModelChoice
from probediff.whitening.statistics import load_whitening, save_whitening
from tests.reference.tiny_text_to_image import SCHEDULERS, save_pipeline

COOLING = ["--initial_temperature", "1", "--final_temperature", "0.1"]
SEARCH = ["--num_iterations", "1000", "--num_chains", "2", *COOLING, "--device", "cpu"]
SAMPLING = ["--num_steps", "8", "--batch_size", "7", "--device", "cpu"]


def write_images(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"image{k}.png")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six digits as files."""
    data = Digits(batch_size=4)
    data.setup("fit")
    return write_images(tmp_path_factory.mktemp("targets") / "digits", np.asarray(data.images[np.arange(6)])[:, 0])


@pytest.fixture(scope="module")
def searched(tiny_run: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What search-noise left, with the statistics beside it."""
    out = tmp_path_factory.mktemp("searched")
    statistics = ["--run", str(tiny_run), "--ridge", "1e-2", "--save_statistics", str(out / "statistics.safetensors")]
    assert search_noise([str(digits), *statistics, *SEARCH, "--out", str(out)]) == 0
    return out


def record(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_search_leaves_noises_pictures_and_all_they_depend_on(searched: Path, digits: Path) -> None:
    found = FoundNoises.load(searched / "noises.safetensors")
    assert found.noise.shape == (6, 2, 1, 8, 8)
    assert found.names == [f"image{k}" for k in range(6)]
    original = np.stack([np.asarray(Image.open(digits / f"{name}.png")) for name in found.names])
    np.testing.assert_allclose(found.images[:, 0].numpy(), original / 127.5 - 1, atol=1e-6)
    made = record(searched / "search_noise.json")
    for conventions in (found.conventions, made["conventions"]):
        assert conventions["loss"] == "forward"
        assert conventions["num_iterations"] == 1000
        assert conventions["statistics"] == {"source": "Digits", "num_images": 1797, "mirrored": False, "ridge": 0.01}
        assert conventions["shape"] == [1, 8, 8]
    assert all(max(row["loss"]) < min(row["initial_loss"]) for row in made["images"])
    assert [row["check"] for row in made["checks"]] == ["mean", "variance", "lag_1_correlation", "spectrum"]
    for picture in ("noises.png", "loss.png"):
        with Image.open(searched / picture) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_statistics_are_numpys_and_can_be_used_again(searched: Path, digits: Path, tmp_path: Path) -> None:
    data = Digits(batch_size=4)
    data.setup("fit")
    rows = np.asarray(data.images[np.arange(1797)]).reshape(1797, -1) / 127.5 - 1
    covariance = np.cov(rows.T)
    covariance += 0.01 * np.trace(covariance) / 64 * np.eye(64)
    whitening = load_whitening(searched / "statistics.safetensors")
    np.testing.assert_allclose(whitening.mean, rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(whitening.covariance(), covariance, atol=1e-6)
    again = ["--statistics", str(searched / "statistics.safetensors"), "--out", str(tmp_path)]
    assert search_noise([str(digits), *again, *SEARCH]) == 0
    first, second = (FoundNoises.load(out / "noises.safetensors") for out in (searched, tmp_path))
    assert torch.equal(first.noise, second.noise)
    assert second.conventions["statistics"] == {"source": "statistics.safetensors", "ridge": 0.01}


def test_statistics_of_a_folder(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 10, 12, 3), dtype=np.uint8)
    folder = write_images(tmp_path / "many", pixels)
    options = ["--images", str(folder), "--image_size", "4", "--num_images", "80", "--loss", "backward"]
    saved = ["--save_statistics", str(tmp_path / "s.safetensors"), "--out", str(tmp_path / "out")]
    assert search_noise([str(folder / "image3.png"), *options, *saved, *SEARCH]) == 0
    assert FoundNoises.load(tmp_path / "out" / "noises.safetensors").noise.shape == (1, 2, 3, 4, 4)
    assert len(load_whitening(tmp_path / "s.safetensors").mean) == 48


def test_vary_compares_with_random_noise_for_every_model(
    searched: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_run / "checkpoints" / "step=00000002.ckpt"
    models = [str(tiny_run), str(checkpoint), f"gaussian:{tiny_run}"]
    noises = str(searched / "noises.safetensors")
    assert vary([noises, *models, *SAMPLING, "--num_shown", "3", "--out", str(tmp_path)]) == 0
    made = record(tmp_path / "vary.json")
    assert [model["model"] for model in made["models"]] == ["run step 4", "run step 2", "gaussian"]
    assert made["noises"]["loss"] == "forward"
    network, _, gaussian = made["models"]
    assert network["conventions"]["num_steps"] == 8
    assert network["conventions"]["convention"] == "openai"
    assert np.shape(network["distance_of_each_found"]) == (6, 2)
    # The model of the statistics themselves brings the noises back to their images.
    printed = capsys.readouterr().out
    for kind in ("random", "another"):
        compared = gaussian["distance"][kind]
        assert compared["found"] < 0.8 * compared["others"]
        assert compared["share_lower"] == 1.0
        assert compared["p_value"] == pytest.approx(2 / 2**6)
        assert f"{compared['others']:.4g}" in printed
    with Image.open(tmp_path / "vary.png") as image:
        assert image.width > 13 * 72


def test_one_target_has_no_test(tiny_run: Path, searched: Path, digits: Path, tmp_path: Path) -> None:
    statistics = ["--statistics", str(searched / "statistics.safetensors")]
    assert search_noise([str(digits / "image2.png"), *statistics, *SEARCH, "--out", str(tmp_path / "one")]) == 0
    noises = str(tmp_path / "one" / "noises.safetensors")
    assert vary([noises, str(tiny_run), *SAMPLING, "--out", str(tmp_path)]) == 0
    distance = record(tmp_path / "vary.json")["models"][0]["distance"]
    assert list(distance) == ["random"]
    assert distance["random"]["p_value"] is None


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
    assert "found noise keeps more structure than random noise" in capsys.readouterr().out
    assert (tmp_path / "edit.png").is_file()


def test_an_edit_of_a_run_without_a_search(tiny_run: Path, digits: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_run), "--strengths", "1", "--noises", "ddim,random", "--num_chains", "2"]
    assert edit([str(digits), *options, *SAMPLING, "--out", str(tmp_path)]) == 0
    made = record(tmp_path / "edit.json")
    assert [one["noise"] for one in made["edits"]] == ["random", "ddim"]
    assert made["tests"] == []
    assert made["conventions"]["step"] == 4


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    return write_images(tmp_path_factory.mktemp("pixels") / "photographs", np.kron(coarse, np.ones((1, 5, 5, 1), "u1")))


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: save_pipeline(root / kind, kind) for kind in SCHEDULERS}


def test_text_to_image_models_share_noises_of_their_codes(
    pipelines: dict[str, Path], photographs: Path, tmp_path: Path
) -> None:
    statistics = ["--images", str(photographs), "--ridge", "0.1", "--save_statistics", str(tmp_path / "s.safetensors")]
    model = ["--model", str(pipelines["sd15"])]
    targets = [str(photographs / f"image{k}.png") for k in range(3)]
    assert search_noise([*targets, *model, *statistics, *SEARCH, "--out", str(tmp_path)]) == 0
    found = FoundNoises.load(tmp_path / "noises.safetensors")
    assert found.noise.shape == (3, 2, 4, 8, 8)
    assert found.images.shape == (3, 3, 16, 16)
    assert len(load_whitening(tmp_path / "s.safetensors").mean) == 256
    prompt = ["--prompt", "a cat", "--negative_prompt", "a dog", "--guidance_scale", "3"]
    noises, models = str(tmp_path / "noises.safetensors"), [str(path) for path in pipelines.values()]
    assert vary([noises, *models, *prompt, "--num_steps", "4", "--device", "cpu", "--out", str(tmp_path)]) == 0
    made = record(tmp_path / "vary.json")["models"]
    assert [one["model"] for one in made] == list(SCHEDULERS)
    assert [one["conventions"]["prediction_type"] for one in made] == ["epsilon", "v_prediction", "epsilon", "epsilon"]
    assert all(one["conventions"]["prompt"] == "a cat" for one in made)
    distances = [one["distance_of_each_found"] for one in made]
    assert all(a != b for a, b in itertools.pairwise(distances))


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
    assert "no clearly different structure from random noise" in capsys.readouterr().out
    assert (tmp_path / "edit.png").is_file()


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_under_the_images_own_prompt_the_ddim_latent_leads_back(
    pipelines: dict[str, Path], photographs: Path, kind: str
) -> None:
    prompts = Prompts("a dog", guidance_scale=0.0, source_prompt="a dog")
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


def failing(command: Any, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert command([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_wrong_input_of_search(
    tiny_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run", tiny_run]
    assert "one of --run, --images, --statistics, got none" in failing(search_noise, [digits], capsys)
    both = [digits, *run, "--images", digits]
    assert "got --run and --images" in failing(search_noise, both, capsys)
    assert "full rank" in failing(search_noise, [digits, *run], capsys)
    assert "a ridge such as 1e-4" in failing(search_noise, [digits, *run], capsys)
    assert "num_chains must be an integer of at least 1, got 0" in failing(
        search_noise, [digits, *run, "--num_chains", 0], capsys
    )
    assert "--num_images must be at least 1, got 0" in failing(search_noise, [digits, *run, "--num_images", 0], capsys)
    assert "needs a size to resize to" in failing(search_noise, [digits, "--images", digits], capsys)
    assert "absent: not there" in failing(search_noise, [tmp_path / "absent", *run], capsys)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "broken.png must be an image of at least 8 pixels" in failing(
        search_noise, [tmp_path / "broken.png", *run], capsys
    )
    finished = [digits, "--statistics", tmp_path / "s", "--ridge", 0.1]
    assert "statistics in a file are finished" in failing(search_noise, finished, capsys)


def test_statistics_of_another_size(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_whitening(WhiteningTransform.from_covariance(torch.zeros(50), torch.eye(50)), tmp_path / "odd.safetensors")
    message = failing(search_noise, [digits, "--statistics", tmp_path / "odd.safetensors"], capsys)
    assert "statistics of 50 values are not those of square RGB or grey images; give --model" in message


def test_wrong_input_of_vary(
    searched: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noises = searched / "noises.safetensors"
    assert "got absent: not there" in failing(vary, ["absent", tiny_run], capsys)
    statistics = searched / "statistics.safetensors"
    assert "must be a file of `probediff search-noise`" in failing(vary, [statistics, tiny_run], capsys)
    assert "--prompt needs a text-to-image model, got " in failing(
        vary, [noises, tiny_run, "--prompt", "a cat"], capsys
    )
    assert "num_steps=30 does not divide 40" in failing(vary, [noises, tiny_run, "--num_steps", 30], capsys)
    assert "no config.yaml" in failing(vary, [noises, "gaussian:nowhere", *SAMPLING], capsys)
    assert "without model_index.json" in failing(vary, [noises, tmp_path, *SAMPLING], capsys)


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


def test_a_file_of_noises_holds_plain_metadata(searched: Path) -> None:
    with safe_open(searched / "noises.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "probediff found noises"
    assert json.loads(metadata["conventions"])["seed"] == 0
