"""Time of a noise-search proposal, and time and peak memory of whitening statistics.

`python -m tests.benchmarks.bench_whitening` compares one proposal of P2's algorithm 1 at D = 3072 in the
covariance's eigenbasis, as `search_noise` makes it, with the algorithm as printed, which multiplies by a D x D matrix,
in float32 and float64, and with the product of that matrix with as many noises as there are chains, all in one run.

`python -m tests.benchmarks.bench_whitening --images PREPARED` streams the arrays PREPARED/*.npy, (N, C, H, W) uint8
each, as `probediff prepare` writes them, and decomposes their covariance. The peak is the resident set of the process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probediff.measures.covariance import moments
from probediff.measures.whitening import Whitening
from probediff.noise_search import NoiseSearchSettings, search_noise
from tests.reference.noise_search_reference import anneal

SHAPE = (3, 32, 32)
CHAINS = 32
PROPOSALS = 2000
LITERAL_PROPOSALS = 60
BATCH = 1024


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_gib() -> float:
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def random_statistics(size: int, generator: torch.Generator) -> Whitening:
    """A random orthogonal basis with the eigenvalues 100 / k^2, about those of small photographs."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return Whitening(torch.zeros(size).double(), 100 * torch.arange(1, size + 1).double() ** -2, basis)


def literal_seconds(matrix: Tensor, target: Tensor) -> float:
    """Per proposal: one chain of the printed algorithm, best of three."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(len(target), generator=generator, dtype=target.dtype)

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    def loss(z: Tensor) -> float:
        return float((matrix @ z - target).square().sum())

    times = [seconds(lambda: anneal(loss, draw, uniform, LITERAL_PROPOSALS, 10.0, 1.0, 0.98)) for _ in range(3)]
    return min(times) / LITERAL_PROPOSALS


def bench_proposals() -> None:
    generator = torch.Generator().manual_seed(0)
    whitening = random_statistics(3 * 32 * 32, generator)
    x_0 = torch.rand(1, *SHAPE, generator=generator) * 2 - 1
    settings = NoiseSearchSettings(num_iterations=PROPOSALS, num_chains=CHAINS)
    search_noise(x_0, whitening, settings)
    ours = min(seconds(lambda: search_noise(x_0, whitening, settings)) for _ in range(3)) / PROPOSALS / CHAINS
    single, double = whitening.inverse_matrix().float(), whitening.inverse_matrix()
    target = x_0.flatten()
    noises = torch.randn(len(target), CHAINS, generator=generator)
    rows = {
        "as printed, float32": literal_seconds(single, target),
        "as printed, float64": literal_seconds(double, target.double()),
        f"bare product with {CHAINS} noises, float32": min(seconds(lambda: single @ noises) for _ in range(5)) / CHAINS,
    }
    print(f"D = {len(target)}, {torch.get_num_threads()} threads, {CHAINS} chains, microseconds a proposal")
    print(f"{'eigenbasis':<44}{ours * 1e6:>10.1f}{'ratio':>10}")
    for name, took in rows.items():
        print(f"{name:<44}{took * 1e6:>10.1f}{took / ours:>10.1f}")


def batches(folder: Path) -> Iterator[Tensor]:
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(array), BATCH):
            yield torch.from_numpy(array[start : start + BATCH].astype(np.float32)) / 127.5 - 1


def bench_statistics(folder: Path) -> None:
    start = time.perf_counter()
    found = moments(batches(folder))
    after = time.perf_counter()
    count, size = found.num_samples, len(found.mean)
    print(f"N = {count}, D = {size}, {torch.get_num_threads()} threads", flush=True)
    print(f"covariance         {after - start:8.1f} s, peak {peak_gib():.2f} GiB", flush=True)
    whitening = Whitening.from_covariance(found.mean, found.covariance)
    print(f"eigendecomposition {time.perf_counter() - after:8.1f} s, peak {peak_gib():.2f} GiB", flush=True)
    largest, smallest = float(whitening.eigenvalues[0]), float(whitening.eigenvalues[-1])
    print(f"eigenvalues {largest:.4g} .. {smallest:.4g}, condition {largest / smallest:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="PREPARED", help="folder of arrays to whiten instead")
    images = parser.parse_args().images
    if images is None:
        bench_proposals()
    else:
        bench_statistics(images)


if __name__ == "__main__":
    main()
