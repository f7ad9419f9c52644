"""The command vary, on runs and on text-to-image pipelines."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probediff.commands.search_noise import search_noise
from probediff.commands.vary import vary
from probediff.editing.noises import FoundNoises
from probediff.whitening.statistics import load_whitening
from tests.commands.conftest import SAMPLING, SEARCH, failing, record
from tests.reference.tiny_text_to_image import SCHEDULERS


def test_vary_compares_with_random_noise_for_every_model(
    searched: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_run / "checkpoints" / "step=00000002.ckpt"
    models = [str(tiny_run), str(checkpoint), f"gaussian:{tiny_run}"]
    noises = str(searched / "noises.safetensors")
    assert vary([noises, *models, *SAMPLING, "--num_shown", "3", "--out", str(tmp_path)]) == 0
    made = record(tmp_path / "vary.json")
    assert [model["model"] for model in made["models"]] == ["run step 4", "run step 2", "run gaussian"]
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
    assert "--guidance_scale needs a text-to-image model" in failing(
        vary, [noises, tiny_run, "--guidance_scale", 3], capsys
    )
    assert "--noise_seed must be at least 0, got -1" in failing(vary, [noises, tiny_run, "--noise_seed", -1], capsys)
    assert "num_steps=30 does not divide 40" in failing(vary, [noises, tiny_run, "--num_steps", 30], capsys)
    assert "no config.yaml" in failing(vary, [noises, "gaussian:nowhere", *SAMPLING], capsys)
    assert "without model_index.json" in failing(vary, [noises, tmp_path, *SAMPLING], capsys)
