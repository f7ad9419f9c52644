"""One proposal of P2's algorithm 1 at D = 3072 in the covariance's eigenbasis, as ``search_noise`` makes it.

Beside it stand the algorithm as printed, which multiplies by a D x D matrix for every proposal, and the product of that
matrix with as many noises as there are chains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from probediff.commands.cpu import set_up_cpu
from probediff.editing.noise_search import NoiseSearchSettings, search_noise
from probediff.measures.whitening import WhiteningTransform
from tests.benchmarks.harness import Figure, synchronized
from tests.reference.noise_search_reference import anneal

SHAPE = (3, 32, 32)
CHAINS = 32
PROPOSALS = 2000
LITERAL_PROPOSALS = 60


def seconds(run: Callable[[], object]) -> float:
    return synchronized(run, torch.device("cpu"))


def random_statistics(size: int, generator: torch.Generator) -> WhiteningTransform:
    """A random orthogonal basis with the eigenvalues 100 / k^2, about those of small photographs."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return WhiteningTransform(torch.zeros(size).double(), 100 * torch.arange(1, size + 1).double() ** -2, basis)


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


def measure() -> list[dict[str, Any]]:
    """Microseconds a proposal, beside the printed algorithm in both precisions."""
    set_up_cpu()
    generator = torch.Generator().manual_seed(0)
    whitening = random_statistics(3 * 32 * 32, generator)
    x_0 = torch.rand(1, *SHAPE, generator=generator) * 2 - 1
    settings = NoiseSearchSettings(num_iterations=PROPOSALS, num_chains=CHAINS)
    search_noise(x_0, whitening, settings)
    single, double = whitening.inverse_matrix().float(), whitening.inverse_matrix()
    target = x_0.flatten()
    noises = torch.randn(len(target), CHAINS, generator=generator)
    ours = min(seconds(lambda: search_noise(x_0, whitening, settings)) for _ in range(3)) / PROPOSALS / CHAINS
    others = {
        "as printed, float32": literal_seconds(single, target),
        "as printed, float64": literal_seconds(double, target.double()),
        "bare float32 product": min(seconds(lambda: single @ noises) for _ in range(5)) / CHAINS,
    }
    ratios = {name: took / ours for name, took in others.items()}
    case = f"noise search, one proposal, D = {len(target):,}, {CHAINS} chains"
    return [Figure("measures", case, ours * 1e6, "microseconds", ratios).__dict__]
