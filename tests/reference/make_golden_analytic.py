"""Write golden/analytic.safetensors by running the authors' code of the analytic denoisers.

Needs checkouts of Kambm/convolutional_diffusion (commit 6a87f3f7) and ottogin/locality-in-diffusion-models (48d69957):
`python -m tests.reference.make_golden_analytic <convolutional_diffusion> <locality-in-diffusion-models>`

Their code runs unchanged, in float64 (torch's default dtype) on a CPU. What it imports but these computations do not
need is replaced by empty modules (matplotlib, torchvision, local_diffusion.data and its networks), and faiss by an
exact search. Where a noise schedule is an argument, t is handed over as beta = 1 - alpha_bar itself.
"""

from __future__ import annotations

import importlib
import math
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.reference.golden_inputs import GOLDEN, hashed_normal, smooth_images

SOURCE = {
    "convolutional_diffusion": "Kambm/convolutional_diffusion 6a87f3f7c6c72474ee5cffda384c1af0277e63f7",
    "locality": "ottogin/locality-in-diffusion-models 48d69957a668eeaeff8efad50eb26830299e6484",
    "keys": "<kind>/<what differs from the defaults>/<10000 alpha_bar>: the image (C, H, W) that their code expects",
}
#: alpha_bar of the queries; 3e-7 is for the mask of constant values alone.
LEVELS = (0.9, 0.5, 0.1, 0.002)
TINY_LEVEL = 3e-7
COUNT, SIZE, SMALL_BATCH = 24, 8, 16


def training_images() -> Tensor:
    """(24, 3, 8, 8) float64."""
    return smooth_images("analytic_golden", COUNT, SIZE)


def query(level: float, count: int = 1) -> Tensor:
    """x_t (count, 3, 8, 8) float64 at alpha_bar = level, of images that are not among the training images."""
    noise = hashed_normal("analytic_golden_noise", (count, 3, SIZE, SIZE))
    return math.sqrt(level) * smooth_images("analytic_golden_x", count, SIZE) + math.sqrt(1 - level) * noise


class ExactIndex:
    """What the authors' code asks of faiss.IndexFlatL2: squared distances of the nearest rows, nearest first."""

    def __init__(self, dimensions: int) -> None:
        self.rows = np.empty((0, dimensions))

    def add(self, rows: np.ndarray) -> None:
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        squares = ((queries[:, None].astype(np.float64) - self.rows) ** 2).sum(-1)
        order = squares.argsort(1)[:, :count]
        return np.take_along_axis(squares, order, 1), order


def import_authors(convolutional: Path, locality: Path) -> tuple[ModuleType, ModuleType]:
    """Their score modules, and their package of models."""
    _ = importlib.import_module("diffusers").DDIMScheduler  # before torchvision is replaced
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.cm", "torchvision", "torchvision.transforms"):
        sys.modules[name] = MagicMock()
    sys.modules["faiss"] = SimpleNamespace(IndexFlatL2=ExactIndex, Index=object, write_index=lambda *_: None)  # type: ignore[assignment]
    for name in ("local_diffusion.data", "local_diffusion.utils.neural_networks"):
        sys.modules[name] = MagicMock()
    sys.path[:0] = [str(convolutional), str(locality / "src")]
    return importlib.import_module("utils.idealscore"), importlib.import_module("local_diffusion.models")


def loader(batch_size: int = COUNT) -> DataLoader[Any]:
    images = training_images()
    return DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=batch_size)


def score_machine(module: ModuleType, name: str, size: int, level: float, **options: Any) -> Tensor:
    """The image that a score module of Kamb & Ganguli implies: (x + (1 - a) score) / sqrt(a)."""
    count = options.pop("count", 1)
    dataset = TensorDataset(training_images(), torch.zeros(COUNT))
    arguments = {"kernel_size": size, "batch_size": COUNT, "image_size": SIZE, "schedule": lambda t: t, **options}
    beta = torch.tensor([1 - level])
    score = getattr(module, name)(dataset, **arguments)(beta, query(level, count), device="cpu")
    return (query(level, count) + (1 - level) * score) / math.sqrt(level)


def locality_model(models: ModuleType, name: str, level: float, batch_size: int = COUNT, **params: Any) -> Tensor:
    """The image of a model of Lukoianov et al. whose scheduler has `level` at timestep 0."""
    batches = loader(batch_size)
    bundle = SimpleNamespace(name="golden", split="train", dataloader=batches, resolution=SIZE, in_channels=3)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"wiener_path": f"{folder}/wiener", "index_path": f"{folder}/index"}
        model = models.create_model(name, dataset=bundle, device="cpu", num_steps=10, params={**paths, **params})
        model.scheduler.alphas_cumprod = torch.tensor([level])
        model.train(bundle)
        return model.denoise(query(level), torch.tensor(0))


def all_images(module: ModuleType, models: ModuleType) -> dict[str, Tensor]:
    """Everything recorded, (C, H, W) or (B, C, H, W) each."""
    images: dict[str, Tensor] = {}
    for level in LEVELS:
        key = f"{10_000 * level:.0f}"
        images[f"wiener//{key}"] = locality_model(models, "wiener", level)
        images[f"nearest//{key}"] = locality_model(models, "nearest_dataset", level)
        images[f"optimal//{key}"] = locality_model(models, "optimal", level)
        images[f"optimal/num_neighbors 8/{key}"] = locality_model(models, "optimal", level, num_neighbors=8)
        images[f"pca_locality//{key}"] = locality_model(models, "pca_locality", level, mask_threshold=0.05)
        images[f"pca_locality/batches of 16/{key}"] = locality_model(
            models, "pca_locality", level, SMALL_BATCH, mask_threshold=0.05
        )
        images[f"optimal/IdealScoreModule/{key}"] = score_machine(module, "IdealScoreModule", 0, level)
        for size in (3, 5, 9):
            images[f"local/{size}/{key}"] = score_machine(module, "LocalScoreModule", size, level)
            images[f"zeros/{size}/{key}"] = score_machine(module, "LocalEquivBordersScoreModule", size, level)
        for size in (3, 7):
            images[f"circular/{size}/{key}"] = score_machine(module, "LocalEquivScoreModule", size, level)
        images[f"zeros/3 in batches of 16/{key}"] = score_machine(
            module, "LocalEquivBordersScoreModule", 3, level, batch_size=SMALL_BATCH
        )
        images[f"circular/3 in batches of 16/{key}"] = score_machine(
            module, "LocalEquivScoreModule", 3, level, batch_size=SMALL_BATCH
        )
    images["pca_locality//tiny"] = locality_model(models, "pca_locality", TINY_LEVEL, mask_threshold=0.05)
    images["local/5 of three/5000"] = score_machine(module, "LocalScoreModule", 5, 0.5, count=3)
    return images


def main() -> None:
    torch.set_default_dtype(torch.float64)
    convolutional, locality = map(Path, sys.argv[1:3])
    images = all_images(*import_authors(convolutional, locality))
    tensors = {name: image.squeeze(0).float().contiguous() for name, image in images.items()}
    save_file(tensors, GOLDEN / "analytic.safetensors", {**SOURCE, "torch_version": torch.__version__})


if __name__ == "__main__":
    main()
