"""Work of the first process that may take longer than the others are allowed to wait for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import lightning as L
import torch

#: Far below the timeout of a process group, which is ten minutes or more.
HEARTBEAT_SEC = 20.0


def on_first_process(trainer: L.Trainer, work: Callable[[], None], heartbeat_sec: float = HEARTBEAT_SEC) -> None:
    """Run ``work`` on the first process while the others wait; every process must call this.

    A collective that waits longer than the process group's timeout kills the run. So the first process works in a
    thread and all of them exchange a sign of life every ``heartbeat_sec``.
    """
    if trainer.world_size == 1:
        work()
        return

    def quietly() -> None:
        # Gradient mode belongs to a thread.
        with torch.no_grad():
            work()

    with ThreadPoolExecutor(max_workers=1) as pool:
        futures = [pool.submit(quietly)] if trainer.is_global_zero else []
        done = False
        while not done:
            wait(futures, timeout=heartbeat_sec)
            done = trainer.strategy.reduce_boolean_decision(all(future.done() for future in futures), all=True)
        for future in futures:
            future.result()
