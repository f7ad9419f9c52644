"""Denormals are flushed, and freed memory is used again without new pages from the system."""

import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys, torch
from probediff.commands.cpu import set_up_cpu
set_up_cpu()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
rounds = [faults() for _ in range(30)]
print(rounds[0], sum(rounds[-5:]), float(torch.tensor(1e-37) * 1e-2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is left as it is elsewhere")
def test_later_tensors_take_the_pages_of_earlier_ones() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    # The first few still find small blocks in their way.
    first, last_five, denormal = done.stdout.split()
    assert int(first) >= 32  # with huge pages of 2 MiB
    assert int(last_five) < int(first)
    assert float(denormal) == 0
