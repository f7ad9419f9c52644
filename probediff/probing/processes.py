"""Several processes at one event: who is first, and work of it for which the others can only wait so long."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from probediff.exceptions import describe_failure

T = TypeVar("T")
#: Far below the timeout of a process group, which is ten minutes or more.
HEARTBEAT_SEC = 20.0


def num_processes() -> int:
    """Processes of the group that ``torch.distributed`` has, 1 without one."""
    return torch.distributed.get_world_size() if _is_initialized() else 1


def is_first_process() -> bool:
    """Whether this one writes and measures."""
    return not _is_initialized() or torch.distributed.get_rank() == 0


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if _is_initialized():
        torch.distributed.barrier()


def share(value: Any) -> Any:
    """What the first process has, on all of them; plain types only. Every process must call this."""
    values = [value]
    if num_processes() > 1:
        torch.distributed.broadcast_object_list(values)
    return values[0]


def raise_together(work: Callable[[], None]) -> None:
    """Run ``work``, a check, on the first process, and raise on all of them what it raises.

    Raises:
        ValueError: with the words of the first process, which itself raises what it was.
    """
    failure: Exception | None = None
    if is_first_process():
        try:
            work()
        except Exception as error:
            failure = error
    what_must_be = share(None if failure is None else describe_failure(failure))
    if failure is not None:
        raise failure
    if what_must_be is not None:
        raise ValueError(what_must_be)


def on_first_process(work: Callable[[], T], device: torch.device, heartbeat_sec: float = HEARTBEAT_SEC) -> T | None:
    """Run ``work`` on the first process while the others wait; every process must call this.

    A collective that waits longer than the process group's timeout kills the run. So the first process works in a
    thread and all of them exchange a sign of life every ``heartbeat_sec``.

    Args:
        work: what is to be done.
        device: of the model: the process group may know how to send from there only.
        heartbeat_sec: seconds between signs of life.

    Returns:
        What ``work`` does, on the first process; None on the others.
    """
    if num_processes() == 1:
        return work()

    def quietly() -> T:
        # Gradient mode belongs to a thread.
        with torch.no_grad():
            return work()

    with ThreadPoolExecutor(max_workers=1) as pool:
        futures = [pool.submit(quietly)] if is_first_process() else []
        done = torch.zeros((), device=device)
        while not done:
            wait(futures, timeout=heartbeat_sec)
            done.fill_(float(all(future.done() for future in futures)))
            torch.distributed.all_reduce(done, torch.distributed.ReduceOp.MIN)
        return next((future.result() for future in futures), None)


def _is_initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
