"""Time and peak memory of the measures, each case in a process of its own, beside the matrix product it must do.

Run `python -m tests.benchmarks.bench_measures [--quick]`. The peak is the resident set of the process, its imports
and inputs included. The product is timed in tiles of the size that the measure uses, in the dtype it uses, and for
many tiles extrapolated from a few; SSIM needs no product, so it stands beside its ten bare window means, and the heat
map beside the literal loop over steps, places and samples, extrapolated from a subset.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

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

CASES = ("assignment", "top_k", "cka", "debiased_cka", "svcca", "ssim", "heat_map")
FULL = {"assignment": (50_000, 3072), "top_k": (2048, 12_288), "heat_map": (1000, 3072)}
QUICK = {"assignment": (4096, 768), "top_k": (512, 3072)}
TIMED_TILES = 4
HEAT_MAP_STEPS, HEAT_MAP_LAMBDAS, HEAT_MAP_BATCH = 100, 101, 128
# Of steps, places and samples, so many of each are timed for the literal loop.
LITERAL_PART = 10


def set_of_images(num: int, dim: int, seed: int) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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


def measure_and_bare(case: str, num: int, dim: int) -> tuple[Callable[[], object], Callable[[], float]]:
    """What to time, and what returns the seconds of the bare work."""
    x = set_of_images(num, dim, 0)
    if case == "top_k":
        return lambda: top_k_correlation(x), lambda: product_seconds(dim, num, 2048, torch.float64, True)
    y = set_of_images(num, dim, 1)
    if case == "assignment":
        return lambda: assignment_accuracy(x, y), lambda: product_seconds(num, dim, 4096, torch.float32, False)
    if case == "heat_map":
        return lambda: heat_map_in_batches(x, y), lambda: literal_heat_map_seconds(x, y)
    if case == "ssim":
        shape = (num, 3, math.isqrt(dim // 3), math.isqrt(dim // 3))
        return lambda: ssim(x.view(shape), y.view(shape)), lambda: seconds(lambda: window_means(x.view(shape)))
    if case == "svcca":
        return lambda: svcca(x, y), lambda: 2 * product_seconds(num, dim, num, torch.float64, False)
    debiased = case == "debiased_cka"
    return lambda: cka(x, y, debiased), lambda: 2 * product_seconds(num, dim, 1024, torch.float64, True)


def run_case(case: str, num: int, dim: int) -> None:
    """Time one case in this process and print the result as JSON."""
    measure, bare = measure_and_bare(case, num, dim)
    took = seconds(measure)
    # Kibibytes on Linux, bytes on macOS; read before the bare product adds its own.
    unit = 1 if sys.platform == "darwin" else 1024
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    print(json.dumps({"seconds": took, "peak_gib": peak_gib, "bare_seconds": bare()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--case", nargs=3, metavar=("NAME", "N", "D"), help="one case in this process")
    arguments = parser.parse_args()
    if arguments.case:
        name, num, dim = arguments.case
        run_case(name, int(num), int(dim))
        return
    print(f"{'case':<14}{'N':>8}{'D':>8}{'seconds':>10}{'bare':>10}{'ratio':>8}{'peak GiB':>10}", flush=True)
    for name in CASES:
        num, dim = QUICK.get(name, (512, 768)) if arguments.quick else FULL.get(name, (2048, 3072))
        command = [sys.executable, "-m", "tests.benchmarks.bench_measures", "--case", name, str(num), str(dim)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        took, bare, peak = result["seconds"], result["bare_seconds"], result["peak_gib"]
        print(f"{name:<14}{num:>8}{dim:>8}{took:>10.2f}{bare:>10.2f}{took / bare:>8.3f}{peak:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
