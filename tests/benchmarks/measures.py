"""Time and peak memory of the measures, each case in a process of its own, beside the work it must do.

The peak is the resident set of the process, its imports and inputs included. The matrix product is timed in tiles of
the size that the measure uses, in the dtype it uses, and for many tiles extrapolated from a few; SSIM needs no
product, so it stands beside its ten bare window means. What the authors compute in Python loops (heat map and
assignment) stands beside a literal loop as well, extrapolated from a subset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from probediff.commands.cpu import set_up_cpu
from probediff.measures import (
    TrajectoryDistances,
    TrajectoryRecorder,
    assignment_accuracy,
    cka,
    heat_map,
    ssim,
    svcca,
    top_k_correlation,
)
from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from tests.benchmarks.harness import Figure, in_own_process, peak_gib, synchronized
from tests.reference.measures_reference import nearest_by_loops

#: Measures with N and D: where the authors loop at their N, all others at the largest sensible size.
FULL = (
    ("assignment", 1000, 3072),
    ("assignment", 50_000, 3072),
    ("heat_map", 1000, 3072),
    ("top_k_correlation", 2048, 12_288),
    ("cka", 2048, 3072),
    ("debiased_cka", 2048, 3072),
    ("svcca", 2048, 3072),
    ("ssim", 2048, 3072),
    ("whitening", 4096, 3072),
)
QUICK = tuple((case, 1024, 768) for case, _, _ in FULL)
TIMED_TILES = 4
# What takes less is timed again, after a first time that warms up.
_SHORT = 2.0
HEAT_MAP_STEPS, HEAT_MAP_LAMBDAS, HEAT_MAP_BATCH = 100, 101, 128
# Of steps, places and samples, so many of each are timed for the literal loop.
LITERAL_PART = 10


def set_of_images(num: int, dim: int, seed: int) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def seconds(run: Callable[[], object]) -> float:
    return synchronized(run, torch.device("cpu"))


def tile_seconds(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """One product (rows, inner) x (inner, columns), the median of a few."""
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    times = sorted(seconds(lambda: a @ b.T) for _ in range(TIMED_TILES))
    return times[TIMED_TILES // 2]


def product_seconds(num: int, inner: int, tile: int, dtype: torch.dtype, symmetric: bool) -> float:
    """(num, inner) x (inner, num) in square tiles; only the upper triangle where symmetric."""
    side = min(tile, num)
    tiles = (num / side) ** 2
    tiles = tiles / 2 + math.sqrt(tiles) / 2 if symmetric else tiles
    return tiles * tile_seconds(side, inner, side, dtype)


def window_means(images: Tensor) -> None:
    """The five means that SSIM needs, each of two separable passes."""
    for chunk in torch.split(images, 4096):
        for _ in range(5):
            avg_pool2d(avg_pool2d(chunk.double(), (1, 7), stride=1), (7, 1), stride=1)


def heat_map_in_batches(noise: Tensor, latent: Tensor) -> Tensor:
    """Recording included; what the states hold does not matter for the time."""
    parts = []
    for x_T, z in zip(noise.split(HEAT_MAP_BATCH), latent.split(HEAT_MAP_BATCH), strict=True):
        recorder = TrajectoryRecorder(HEAT_MAP_STEPS)
        for index in range(HEAT_MAP_STEPS):
            recorder.on_step(SimpleNamespace(index=index, x=z))
        parts.append(recorder.distances(x_T, z))
    return heat_map(TrajectoryDistances.cat(parts), torch.linspace(0, 1, HEAT_MAP_LAMBDAS))


def literal_heat_map_seconds(noise: Tensor, latent: Tensor) -> float:
    def part() -> None:
        for _ in range(LITERAL_PART):
            for place in torch.linspace(0, 1, LITERAL_PART).tolist():
                for i in range(LITERAL_PART):
                    float(torch.linalg.vector_norm((1 - place) * noise[i] + place * latent[i] - latent[i]))

    part()
    return seconds(part) / LITERAL_PART**3 * HEAT_MAP_STEPS * HEAT_MAP_LAMBDAS * len(noise)


def literal_assignment_seconds(noise: Tensor, image: Tensor) -> float:
    """Both ways, one pair of images after the other."""
    candidates = noise[:1000].double().numpy()
    queries = image[:LITERAL_PART].double().numpy()
    pairs = len(candidates) * len(queries)
    return 2 * seconds(lambda: nearest_by_loops(queries, candidates, 1)) / pairs * len(noise) ** 2


def whiten(x: Tensor) -> None:
    found = moments(x.split(1024))
    WhiteningTransform.from_covariance(found.mean, found.covariance)


def eigendecomposition_seconds(x: Tensor) -> float:
    """The covariance's product and LAPACK's decomposition of it, nothing else."""
    centred = x.double() - x.double().mean(0)
    covariance = centred.T @ centred / len(x)
    return seconds(lambda: centred.T @ centred) + seconds(lambda: torch.linalg.eigh(covariance))


def gram_eigh_seconds(x: Tensor) -> float:
    """The N x N product of a set with itself and LAPACK's decomposition of it."""
    rows = x.double()
    gram = rows @ rows.T
    return seconds(lambda: rows @ rows.T) + seconds(lambda: torch.linalg.eigh(gram))


def measure_and_bare(case: str, num: int, dim: int) -> tuple[Callable[[], object], dict[str, Callable[[], float]]]:
    """What to time, and what returns the seconds of the bare work and of the literal loop."""
    x = set_of_images(num, dim, 0)
    if case == "top_k_correlation":
        return lambda: top_k_correlation(x), {"product": lambda: product_seconds(dim, num, 2048, torch.float64, True)}
    if case == "whitening":
        return lambda: whiten(x), {"product and eigh": lambda: eigendecomposition_seconds(x)}
    y = set_of_images(num, dim, 1)
    if case == "assignment":
        product = lambda: product_seconds(num, dim, 4096, torch.float32, False)  # noqa: E731
        return lambda: assignment_accuracy(x, y), {
            "product": product,
            "literal loop": lambda: literal_assignment_seconds(x, y),
        }
    if case == "heat_map":
        return lambda: heat_map_in_batches(x, y), {"literal loop": lambda: literal_heat_map_seconds(x, y)}
    if case == "ssim":
        images = (num, 3, math.isqrt(dim // 3), math.isqrt(dim // 3))
        return lambda: ssim(x.view(images), y.view(images)), {
            "window means": lambda: seconds(lambda: window_means(x.view(images)))
        }
    if case == "svcca":
        return lambda: svcca(x, y), {"products and eigh": lambda: 2 * gram_eigh_seconds(x)}
    product = lambda: 2 * product_seconds(num, dim, 1024, torch.float64, True)  # noqa: E731
    return lambda: cka(x, y, case == "debiased_cka"), {"product": product}


def run_case(case: str, num: int, dim: int, bare: bool = True) -> dict[str, Any]:
    """Seconds and peak of one case in this process, and seconds of the bare work."""
    set_up_cpu()
    measure_it, others = measure_and_bare(case, num, dim)
    took = seconds(measure_it)
    if bare and took < _SHORT:
        took = min(seconds(measure_it) for _ in range(3))
    found: dict[str, Any] = {"seconds": took, "peak_gib": peak_gib()}
    return found | {"others": {name: other() for name, other in others.items()} if bare else {}}


def measure(quick: bool) -> list[dict[str, Any]]:
    """One figure a measure."""
    figures = []
    for case, num, dim in QUICK if quick else FULL:
        found = in_own_process(run_case, case, num, dim)
        ratios = {name: other / found["seconds"] for name, other in found["others"].items()}
        size = f"{case}, N = {num:,}, D = {dim:,}"
        figures.append(Figure("measures", size, found["seconds"], "s", ratios, None, found["peak_gib"]).__dict__)
    return figures
