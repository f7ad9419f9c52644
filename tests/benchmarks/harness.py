"""What every benchmark shares: paired timing, processes of their own, and one kind of result."""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

_RESULT = "benchmark result: "


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        section: what part of the project it is about.
        case: what was done, and on what size.
        value: the figure itself.
        unit: of ``value``.
        ratios: name -> how many times faster ours is than that (or, where ``case`` says so, another ratio).
        limit: share of what this machine can do (its matrix-product rate), where there is such a limit.
        memory_gib: peak memory of a process that did only this, without what its imports take.
        note: conditions that the reader must know.
    """

    section: str
    case: str
    value: float
    unit: str
    ratios: dict[str, float] = field(default_factory=dict)
    limit: float | None = None
    memory_gib: float | None = None
    note: str = ""


def synchronized(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``action``, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(actions: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of every action, run in turn (A B A B ...) after one unmeasured round."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(rounds + 1):
        for name, action in actions.items():
            took = synchronized(action, device)
            if index:
                times[name].append(took)
    return {name: statistics.median(found) for name, found in times.items()}


class Pace(NamedTuple):
    """Seconds of an action when it is called again and again, and of the host's part of it on an idle device."""

    seconds: float
    host_seconds: float


def pace(action: Callable[[], object], device: torch.device, rounds: int, warm_up: int = 4) -> Pace:
    """Medians of ``action`` back to back, as training calls it: on a GPU by its own clock, without waiting in between.

    Where both are about equal, the device waits for the host.
    """
    for _ in range(warm_up):
        action()
    hosts = []
    for _ in range(3):
        synchronized(lambda: None, device)
        start = time.perf_counter()
        action()
        hosts.append(time.perf_counter() - start)
    host = statistics.median(hosts)
    if device.type != "cuda":
        return Pace(statistics.median(synchronized(action, device) for _ in range(rounds)), host)
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for mark in marks[1:]:
        action()
        mark.record()
    torch.cuda.synchronize()
    return Pace(statistics.median(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)), host)


def peak_gib() -> float:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, which counts what the parent process held when it started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    # Kibibytes on most systems, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns in a fresh interpreter; all of it must be JSON."""
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function.__module__}.{function.__name__}{arguments} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.rpartition(_RESULT)[2])


if __name__ == "__main__":
    module, name, given = sys.argv[1:]
    result = getattr(importlib.import_module(module), name)(*json.loads(given))
    print(_RESULT + json.dumps(result))
