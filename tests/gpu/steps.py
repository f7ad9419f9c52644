"""Milliseconds a training step of P1's CIFAR-10 network (*There and Back Again*), beside diffusers and the best rate.

    python -m tests.gpu.steps --out FILE [--device cpu] [--seconds 150] [--miniature]

A JSON line a variant, the most telling one first; what no time is left for is said too. Steps are called back to back
as in training and timed by the device's own clock; where the host's time is about as long, the device waits for the
host.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probediff.commands.cpu import set_up_cpu
from tests.benchmarks.contenders import (
    NETWORKS,
    Contender,
    Form,
    Network,
    diffusers,
    probediff,
)
from tests.benchmarks.harness import pace
from tests.benchmarks.machine import describe, matrix_rate
from tests.gpu.captured import graphed_probediff

BATCH_SIZE = 128
#: A backward pass costs two forward ones.
PASSES = 3
EAGER = Form()
EAGER_LAST = Form(torch.channels_last)
COMPILED_LAST = Form(torch.channels_last, {"dynamic": False})
GRAPHED_LAST = Form(torch.channels_last, {"dynamic": False, "mode": "reduce-overhead"})

Build = Callable[[Network, torch.Tensor, str], Contender]


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: as it is reported.
        build: makes it.
        at_least_sec: how long it takes before its first figure, compilation above all.
        on_cpu: whether it is part of a miniature.
    """

    name: str
    build: Build
    at_least_sec: float = 8
    on_cpu: bool = False


def shaped(build: Callable[[Network, torch.Tensor, str, Form | None], Contender], form: Form) -> Build:
    """``build`` with that layout and compilation."""
    return lambda sizes, x_0, precision: build(sizes, x_0, precision, form)


VARIANTS = (
    Variant("probediff, eager", shaped(probediff, EAGER), on_cpu=True),
    Variant("diffusers, eager", shaped(diffusers, EAGER), on_cpu=True),
    Variant("probediff, step captured in a CUDA graph", graphed_probediff, 10),
    Variant("probediff, eager, channels_last", shaped(probediff, EAGER_LAST), on_cpu=True),
    Variant("probediff, compiled, channels_last", shaped(probediff, COMPILED_LAST), 105),
    Variant("diffusers, compiled, channels_last", shaped(diffusers, COMPILED_LAST), 105),
    Variant("probediff, compiled with CUDA graphs, channels_last", shaped(probediff, GRAPHED_LAST), 105),
)


def images(batch_size: int, size: int, device: torch.device) -> torch.Tensor:
    """Uniform noise in [-1, 1]: what is in the images does not change the time."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(batch_size, 3, size, size, generator=generator) * 2 - 1).to(device)


def figures(
    variant: Variant, sizes: Network, x_0: torch.Tensor, precision: str, rate: float, rounds: int
) -> dict[str, Any]:
    """Of one variant; ``rate`` in GFLOP/s is the limit."""
    device = x_0.device
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    contender = variant.build(sizes, x_0, precision)
    contender.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first = time.perf_counter() - start
    took, host = pace(contender.step, device, rounds)
    return {
        "ms": 1e3 * took,
        "host_ms": 1e3 * host,
        "images_per_second": len(x_0) / took,
        "share_of_rate": PASSES * contender.gflop_per_image * len(x_0) / took / rate,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "until_first_step_sec": first,
    }


def measure(device: torch.device, seconds: float, miniature: bool, write: Callable[[dict[str, Any]], None]) -> bool:
    """Measure what there is time for; returns whether all that was measured worked."""
    end = time.perf_counter() + seconds
    set_up_cpu()
    batch_size, rounds, sizes = (2, 2, NETWORKS["small"]) if miniature else (BATCH_SIZE, 16, NETWORKS["32 px"])
    # A CPU without instructions for bfloat16 would take minutes for one product.
    precision = "bfloat16" if device.type == "cuda" else "float32"
    rate = matrix_rate(device, getattr(torch, precision))
    write({"machine": describe(device.type), "precision": precision, "tflops_of_products": rate / 1e3})
    x_0, whole = images(batch_size, sizes.image_size, device), True
    for variant in VARIANTS:
        if miniature and not variant.on_cpu:
            write({"variant": variant.name, "left_out": "not part of the miniature"})
        elif time.perf_counter() + variant.at_least_sec > end:
            write({"variant": variant.name, "left_out": "no time left"})
        else:
            try:
                measured = figures(variant, sizes, x_0, precision, rate, rounds)
                write({"variant": variant.name, "batch_size": batch_size, **measured})
            except Exception as error:  # whatever one variant runs into, the others are measured
                whole = False
                lines = traceback.format_exc().splitlines()[-6:]
                write({"variant": variant.name, "failed": f"{type(error).__name__}: {error}"[:800], "traceback": lines})
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the lines go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=150, help="no variant is begun that would not fit in")
    parser.add_argument("--miniature", action="store_true", help="a small network, eager only")
    options = parser.parse_args()

    def write(line: dict[str, Any]) -> None:
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    return 0 if measure(torch.device(options.device), options.seconds, options.miniature, write) else 1


if __name__ == "__main__":
    raise SystemExit(main())
