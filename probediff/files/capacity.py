"""What this machine can hold and do: what is beyond it is refused before any work, not ended by the system or never."""

import os
from contextlib import suppress
from pathlib import Path

_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: What a process that reads images takes at least, beside what it shares with others; and one that trains.
WORKER_BYTES, PROCESS_BYTES = 2**24, 2**27
#: What the evaluation of a network for an image, a training batch, or a proposal of a noise search take at least.
EVALUATION_SEC, BATCH_SEC, PROPOSAL_SEC = 1e-5, 1e-4, 1e-7
_YEAR_SEC = 365 * 24 * 3600


def memory_bytes() -> int:
    """Memory of this machine, or of the container that this process runs in."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def check_memory(name: str, value: object, num_bytes: float, cure: str) -> None:
    """Raise ValueError where ``num_bytes``, the least that a value needs, are more than this machine's memory.

    Args:
        name: of the option.
        value: what it is set to.
        num_bytes: what it needs at least.
        cure: what to do.
    """
    there = memory_bytes()
    if num_bytes > there:
        raise ValueError(
            f"{name} must fit into the {there / 2**30:,.1f} GiB memory of this machine, got {value}, which needs at "
            f"least {num_bytes / 2**30:,.1f} GiB; {cure}"
        )


def check_time(name: str, value: object, seconds: float) -> None:
    """Raise ValueError where the least time that a value needs is more than a year.

    Args:
        name: of the option.
        value: what it is set to.
        seconds: what it needs at least.
    """
    if seconds > _YEAR_SEC:
        raise ValueError(
            f"{name} must be work for less than a year, got {value}, which takes at least {seconds / _YEAR_SEC:,.0f} "
            f"years; lower it"
        )
