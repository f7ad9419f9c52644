"""The command search-noise, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from probediff.commands.search_noise import search_noise
from probediff.data import Digits
from probediff.editing.noises import FoundNoises
from probediff.measures.whitening import WhiteningTransform
from probediff.whitening.statistics import digest_whitening, load_whitening, save_whitening
from tests.commands.conftest import SEARCH, failing, record, write_images


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
        wanted = {"source": "Digits", "num_images": 1797, "mirrored": False, "ridge": 0.01, "pixel_shape": [1, 8, 8]}
        assert conventions["statistics"].items() >= wanted.items()
        assert (conventions["centred"], conventions["drawn_on"]) == (True, "cpu")
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
    digest = digest_whitening(whitening)
    assert second.conventions["statistics"] == {"source": "statistics.safetensors", "ridge": 0.01, "sha256": digest}
    assert first.conventions["statistics"]["sha256"] == digest


def test_statistics_of_a_folder(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 10, 12, 3), dtype=np.uint8)
    folder = write_images(tmp_path / "many", pixels)
    options = ["--images", str(folder), "--image_size", "4", "--num_images", "80", "--loss", "backward"]
    saved = ["--save_statistics", str(tmp_path / "new" / "s.safetensors"), "--out", str(tmp_path / "out")]
    assert search_noise([str(folder / "image3.png"), *options, *saved, *SEARCH]) == 0
    assert FoundNoises.load(tmp_path / "out" / "noises.safetensors").noise.shape == (1, 2, 3, 4, 4)
    assert len(load_whitening(tmp_path / "new" / "s.safetensors").mean) == 48


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
    for option in (["--image_size", 8], ["--channels", 1]):
        assert f"{option[0]} must be left out for --run, which has its own" in failing(
            search_noise, [digits, *run, *option], capsys
        )
    assert "--channels must be left out for a --model" in failing(
        search_noise, [digits, *run, "--model", tiny_run, "--channels", 1], capsys
    )
    for name, value in (("checkpoints", "2"), ("schedule", "linear"), ("weights", "raw")):
        message = failing(search_noise, [digits, *run, f"--{name}", value], capsys)
        assert f"--{name} needs --model, got {value!r} without one" in message
    finished = [digits, "--statistics", tmp_path / "s", "--ridge", 0.1]
    assert "statistics in a file are finished" in failing(search_noise, finished, capsys)


def test_statistics_of_another_size(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_whitening(WhiteningTransform.from_covariance(torch.zeros(50), torch.eye(50)), tmp_path / "odd.safetensors")
    message = failing(search_noise, [digits, "--statistics", tmp_path / "odd.safetensors"], capsys)
    assert "statistics of 50 values are not those of square RGB or grey images; give --model" in message


def test_a_file_of_noises_holds_plain_metadata(searched: Path) -> None:
    with safe_open(searched / "noises.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "probediff found noises"
    assert json.loads(metadata["conventions"])["seed"] == 0


def test_saved_statistics_are_never_replaced_by_others(
    tiny_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "s.safetensors"

    def search(out: str, *options: str) -> list[str]:
        target = ["--save_statistics", str(saved), "--out", str(tmp_path / out)]
        return [str(digits / "image0.png"), *target, *SEARCH, *options]

    run = ["--run", str(tiny_run), "--num_images", "500", "--ridge"]
    assert search_noise(search("first", *run, "0.01")) == 0
    before = saved.read_bytes()
    assert search_noise(search("second", *run, "0.01")) == 0
    assert f"the statistics are there already: {saved}" in capsys.readouterr().err
    # Finished ones are compared by their values, wherever they come from.
    assert search_noise(search("third", "--statistics", str(saved))) == 0
    message = failing(search_noise, search("other", *run, "0.1"), capsys)
    assert "--save_statistics must be a new file or one with the same statistics" in message
    assert "ridge is 0.01 there and 0.1 now" in message
    save_whitening(WhiteningTransform.from_covariance(torch.zeros(64), torch.eye(64)), tmp_path / "unit")
    message = failing(search_noise, search("other", "--statistics", str(tmp_path / "unit")), capsys)
    assert "sha256 is " in message
    saved.write_bytes(before[:-1])
    assert "must hold whitening statistics" in failing(search_noise, search("other", *run, "0.01"), capsys)
    saved.write_bytes(before)
    save_whitening(load_whitening(saved), saved)
    assert "ridge is unknown there" in failing(search_noise, search("other", *run, "0.01"), capsys)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("options", "centred"), [(["--loss", "baseline"], False), (["--centre", "false"], False)])
def test_what_is_not_centred_says_so(
    searched: Path, digits: Path, tmp_path: Path, options: list[str], centred: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics = ["--statistics", str(searched / "statistics.safetensors"), *SEARCH, "--out", str(tmp_path)]
    assert search_noise([str(digits / "image0.png"), *statistics, *options]) == 0
    made = record(tmp_path / "search_noise.json")["conventions"]
    assert (made["centred"], "centre" in made) == (centred, False)
    assert FoundNoises.load(tmp_path / "noises.safetensors").conventions["centred"] is centred
    if "--centre" in options:
        message = failing(search_noise, [digits / "image0.png", *statistics], capsys)
        assert "centred is False there and True now; give another --out" in message
