"""How far the pass of an event is, and a stop between its batches."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from probediff.callbacks.stopping import StopRequest
from probediff.display.progress import progress_bar
from probediff.probing.shared_pass import PASS, Advance


@contextmanager
def show_pass(trainer: L.Trainer, stop: StopRequest, shown: bool) -> Iterator[Advance]:
    """What a pass tells its progress to: a bar on the first process, and whoever asked for a stop."""
    step = trainer.global_step
    hidden = not (shown and trainer.is_global_zero)
    with progress_bar(desc=f"probing step {step}", disable=hidden, leave=False, position=1, mininterval=0.5) as bar:

        def advance(part: str, done: int, total: int) -> None:
            # While the first process measures alone, the others could not know that it stops.
            if trainer.world_size == 1 or part == PASS:
                stop.raise_if_requested()
            if bar.total != total or part not in bar.desc:
                bar.reset(total)
                bar.set_description(f"probing step {step}: {part}", refresh=False)
            bar.update(done - bar.n)

        yield advance
