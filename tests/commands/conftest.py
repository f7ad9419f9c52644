"""Inputs of the commands search-noise, vary and edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from probediff.commands.search_noise import search_noise
from probediff.data import Digits
from tests.reference.tiny_text_to_image import SCHEDULERS, save_pipeline

COOLING = ["--initial_temperature", "1", "--final_temperature", "0.1"]
SEARCH = ["--num_iterations", "1000", "--num_chains", "2", *COOLING, "--device", "cpu"]
SAMPLING = ["--num_steps", "8", "--batch_size", "7", "--device", "cpu"]


def write_images(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"image{k}.png")
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six digits as files."""
    data = Digits(batch_size=4)
    data.setup("fit")
    return write_images(tmp_path_factory.mktemp("targets") / "digits", np.asarray(data.images[np.arange(6)])[:, 0])


@pytest.fixture(scope="session")
def searched(tiny_run: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What search-noise left, with the statistics beside it."""
    out = tmp_path_factory.mktemp("searched")
    statistics = ["--run", str(tiny_run), "--ridge", "1e-2", "--save_statistics", str(out / "statistics.safetensors")]
    assert search_noise([str(digits), *statistics, *SEARCH, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    return write_images(tmp_path_factory.mktemp("pixels") / "photographs", np.kron(coarse, np.ones((1, 5, 5, 1), "u1")))


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: save_pipeline(root / kind, kind) for kind in SCHEDULERS}


def record(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def failing(command: Any, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert command([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err
