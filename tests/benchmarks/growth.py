"""How time and memory grow: measured exponents beside those that the work itself has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from probediff.commands.cpu import set_up_cpu
from probediff.denoisers import EpsModel, UNet
from probediff.models.base import ProbeModel
from probediff.noise import training_draws
from probediff.probing import PassSettings
from probediff.probing.shared_pass import PassRequest, run_pass
from probediff.schedule import NoiseSchedule
from tests.benchmarks.contenders import NETWORKS
from tests.benchmarks.exact import evaluations
from tests.benchmarks.harness import in_own_process, peak_gib, synchronized
from tests.benchmarks.measures import run_case

#: Measure -> (numbers of samples at D = 3072, numbers of dimensions at N = 2048, and the exponents of the matrix
#: products and decompositions that it consists of, in N and in D).
_CASES: dict[str, tuple[Sequence[int], Sequence[int], float, float]] = {
    "assignment": ((1024, 2048, 4096), (1536, 3072, 6144), 2, 1),
    "top_k_correlation": ((1024, 2048, 4096), (1536, 3072, 6144), 1, 2),
    "cka": ((1024, 2048, 4096), (1536, 3072, 6144), 2, 1),
    "svcca": ((1024, 2048), (3072, 6144), 3, 1),
    "ssim": ((1024, 2048, 4096), (3072, 12288), 1, 1),
    "heat_map": ((500, 1000, 2000), (3072, 12288), 1, 1),
    "whitening": ((4096, 8192), (384, 768, 1536), 1, 3),
}
_NUM, _DIM = 2048, 3072
_QUICK = {"ssim": _CASES["ssim"]}
# Below this the peak is that of the imports and says nothing.
_VISIBLE_GIB = 0.1


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through (log size, log value)."""
    x, y = ([math.log(v) for v in found] for found in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def cases(case: str, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The measure at ascending sizes (N, D), whose peaks are therefore their own, after one to warm up."""
    run_case(case, *sizes[0], False)
    return [run_case(case, num, dim, False) for num, dim in sizes]


def _row(
    what: str, along: str, sizes: Sequence[int], expected: float, base: float, found: list[dict[str, Any]]
) -> dict[str, Any]:
    memory = [one["peak_gib"] - base for one in found]
    seen = min(memory) > _VISIBLE_GIB
    return {
        "what": what,
        "along": along,
        "sizes": list(sizes),
        "seconds": [one["seconds"] for one in found],
        "gib": memory,
        "time_exponent": exponent(sizes, [one["seconds"] for one in found]),
        "work_exponent": expected,
        "memory_exponent": exponent(sizes, memory) if seen else None,
    }


def probe_passes(steps: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds and peaks of passes over 64 images with the small network, the way from noise to image watched."""
    set_up_cpu()
    return [_probe_pass(num_steps) for num_steps in steps]


def _probe_pass(num_steps: int) -> dict[str, Any]:
    sizes = NETWORKS["small"]
    model = EpsModel(UNet(sizes.image_size, 3, 6, **sizes.arguments()), 4000).eval()
    probed = ProbeModel(model, NoiseSchedule.from_name("cosine", 4000), (3, 32, 32), 0, {})
    settings = PassSettings(num_samples=64, num_steps=num_steps)
    request = PassRequest(trajectory=True)
    cpu = torch.device("cpu")
    took = synchronized(lambda: run_pass(probed, settings, request), cpu)
    return {"seconds": took, "peak_gib": peak_gib()}


def _draws(world_size: int) -> float:
    """Seconds of one step's randomness in one of so many processes, 16 CIFAR-10 images each."""
    x_0 = torch.zeros(16, 3, 32, 32)
    cpu = torch.device("cpu")
    return min(synchronized(lambda: training_draws(0, 0, x_0, 4000, 0, world_size), cpu) for _ in range(20))


def _exact_rows(quick: bool) -> list[dict[str, Any]]:
    """Evaluations of the exact denoisers over training images M, images N and dimensions D, each alone."""
    scale = 16 if quick else 1
    count, num, size = 12_800 // scale, 256 // scale, 384 // scale
    factors = (1, 2, 4)
    cases = {"M": [(k * count, num, 4 * size) for k in factors], "N": [(count, k * num, 4 * size) for k in factors]}
    cases["D"] = [(count, num, k * size) for k in factors]
    rows = []
    for along, sizes in cases.items():
        found = [in_own_process(evaluations, *case, False)[0] for case in sizes]
        # Beside the products with M images stand two with the D x D eigenbasis, an eighth of them where M is 8 D.
        seconds = [{"seconds": one["seconds"]["noisy"], "peak_gib": one["peak_gib"]} for one in found]
        along_sizes = [case["MND".index(along)] for case in sizes]
        rows.append(_row("exact denoiser, one evaluation", along, along_sizes, 1, 0.0, seconds))
    return rows


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of the growth table."""
    rows = []
    base = in_own_process(run_case, "ssim", 2, 768, False)["peak_gib"]
    for case, (nums, dims, over_num, over_dim) in (_QUICK if quick else _CASES).items():
        by_num = in_own_process(cases, case, [(num, _DIM) for num in nums])
        rows.append(_row(case, "N", nums, over_num, base, by_num))
        by_dim = in_own_process(cases, case, [(_NUM, dim) for dim in dims])
        rows.append(_row(case, "D", dims, over_dim, base, by_dim))
    steps = (4, 8) if quick else (8, 16, 32)
    rows.append(_row("probe pass, N = 64", "DDIM steps", steps, 1, base, in_own_process(probe_passes, steps)))
    rows += _exact_rows(quick)
    worlds = (8, 16, 32, 64)
    seconds = [_draws(world) for world in worlds]
    draws = {"what": "randomness of a training step", "along": "processes", "sizes": list(worlds), "seconds": seconds}
    draws |= {"gib": [], "time_exponent": exponent(worlds, seconds), "work_exponent": 1, "memory_exponent": None}
    return [*rows, draws]
