"""Every check runs twice: whole on a GPU (marker ``gpu``) and in miniature on the CPU (marker ``slow``)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.gpu.scale import MINIATURE, WHOLE, Scale

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
ON_GPU = pytest.param(WHOLE, id="cuda", marks=[pytest.mark.gpu, NO_GPU])
ON_CPU = pytest.param(MINIATURE, id="cpu", marks=pytest.mark.slow)


@pytest.fixture(params=[ON_GPU, ON_CPU])
def scale(request: pytest.FixtureRequest) -> Iterator[Scale]:
    """Both, one after the other; beside a GPU the CPU's part gets some threads."""
    chosen: Scale = request.param
    threads = torch.get_num_threads()
    if chosen.on_gpu:
        torch.set_num_threads(min(4, os.cpu_count() or 1))
    yield chosen
    torch.set_num_threads(threads)


Record = Callable[..., None]


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Add figures as a JSON line to the file that PROBEDIFF_GPU_FIGURES names, before they are judged."""

    def write(**figures: object) -> None:
        path = os.environ.get("PROBEDIFF_GPU_FIGURES")
        if path:
            line = json.dumps({"check": request.node.name, **figures}) + "\n"
            with open(path, "a") as file:
                file.write(line)

    return write
