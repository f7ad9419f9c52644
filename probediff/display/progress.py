"""Progress of long work: a bar in a terminal, and a line a minute where nobody watches, such as a batch job's log."""

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

#: A log file does not grow faster, however many steps there are.
LINE_EVERY_SEC = 60.0


class _Lines(plain_tqdm):  # type: ignore[type-arg]
    """A bar that is never drawn: what it would show is written as a line once a minute."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._written_at = time.monotonic()
        shown = "{l_bar} {n_fmt} of {total_fmt} [{elapsed} so far, {remaining} left, {rate_fmt}{postfix}]"
        super().__init__(*args, **(options | {"delay": math.inf, "bar_format": shown}))

    def __iter__(self) -> Iterator[Any]:
        for value in self.iterable:
            yield value
            self.update()
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Count; write a line when the last one is a minute old."""
        super().update(n)
        now = time.monotonic()
        if self.disable or now - self._written_at < LINE_EVERY_SEC:
            return None
        self._written_at = now
        print(self, file=self.fp, flush=True)
        return True

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw nothing."""


def progress_bar(*args: Any, **options: Any) -> tqdm:  # type: ignore[type-arg]
    """What ``tqdm`` makes of the same arguments, if standard error is a terminal; else lines, at most one a minute."""
    made: tqdm = (tqdm if sys.stderr.isatty() else _Lines)(*args, **options)  # type: ignore[type-arg]
    return made
