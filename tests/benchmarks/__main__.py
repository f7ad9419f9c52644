"""`make bench`, `make bench-gpu`: speed beside what a user would pick instead and beside what the machine can do.

    python -m tests.benchmarks [--device cuda] [--json FILE] [--page FILE] [--only SECTION ...]

Every comparison is made in one process in turns (A B A B ...), medians are compared, and ratios above 1 say that this
project is faster. Needs the extra `bench`. To stand beside improved-diffusion too, put its code on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import (
    event,
    exact,
    growth,
    machine,
    measures,
    noise_search,
    overhead,
    sampling,
    startup,
    training,
)
from tests.benchmarks.harness import in_own_process
from tests.benchmarks.page import markdown, table

_NETWORKS = ("small", "32 px", "64 px")
_ROUNDS = {"cpu": {"small": 4, "32 px": 3, "64 px": 2}, "cuda": dict.fromkeys(_NETWORKS, 30)}


class Bench:
    """Runs sections, each in a process of its own."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.result: dict[str, Any] = {"figures": []}
        self.networks = _NETWORKS[:1] if quick else _NETWORKS

    def machine(self) -> None:
        """Hardware, versions and the limits."""
        self.result["machine"] = machine.describe(self.device)
        self.result["rates"] = in_own_process(machine.rates, self.device)

    def training(self) -> None:
        """Steps of all networks and contenders."""
        self._networks(training.measure)

    def sampling(self) -> None:
        """Sampling and inversion."""
        self._networks(sampling.measure)

    def _networks(self, measure: Callable[..., Any]) -> None:
        for network in self.networks:
            rounds = 2 if self.quick else _ROUNDS[self.device][network]
            self.add(in_own_process(measure, network, self.device, rounds))

    def overhead(self) -> None:
        """What of a step is not the network."""
        # A step of the large network and its batch of 128 takes half a minute on a few cores.
        for network in ("small", "32 px") if self.device == "cuda" else ("small",):
            self.add(in_own_process(overhead.measure, network, 5 if self.quick else 40))

    def event(self) -> None:
        """A probe event and its share of a training."""
        self.add(in_own_process(event.measure))
        steps = self._speeds("training step", "probediff", "bfloat16")
        self.add(event.shares(steps, self._speeds("sampling and inversion", "sampling", "float32")))

    def _speeds(self, section: str, who: str, precision: str) -> dict[str, float]:
        return {
            network: figure["value"]
            for figure in self.result["figures"]
            for network in self.networks
            if figure["section"] == section
            and figure["case"].startswith(f"{who}, {network}")
            and precision in figure["case"]
        }

    def measures(self) -> None:
        """Every measure."""
        self.add(measures.measure(self.quick))
        self.add(in_own_process(noise_search.measure))

    def exact(self) -> None:
        """Exact denoisers."""
        self.add(exact.measure(self.quick))

    def growth(self) -> None:
        """Exponents."""
        self.result["growth"] = growth.measure(self.quick)

    def start(self) -> None:
        """Start of the command line."""
        self.add(in_own_process(startup.measure, 2))

    def add(self, figures: list[dict[str, Any]]) -> None:
        """Keep and show."""
        self.result["figures"] += figures
        print(table(figures), flush=True)


SECTIONS = ("start", "training", "overhead", "sampling", "event", "measures", "exact", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--page", type=Path, help="where the result goes as a Markdown page")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute; the figures mean little")
    options = parser.parse_args()
    began = time.perf_counter()
    bench = Bench(options.device, options.quick)
    bench.machine()
    for section in options.only:
        start = time.perf_counter()
        getattr(bench, section)()
        print(f"{section}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    bench.result["minutes"] = (time.perf_counter() - began) / 60
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(bench.result, indent=1) + "\n")
    if options.page:
        options.page.write_text(markdown(bench.result))


if __name__ == "__main__":
    main()
