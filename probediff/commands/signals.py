"""Signals while nothing is being trained: a command ends at once, in words. Nothing heavy is imported."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from probediff.exceptions import StoppedAtOnce

#: Exit status after Ctrl-C, and after other signals of a run that wants to be started again (EX_TEMPFAIL, sysexits.h).
INTERRUPTED, STOPPED = 130, 75
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Let signals raise `StoppedAtOnce`, from the first moment on, until somebody else takes them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to all processes; those that read data end with the one that they read for.
        if os.getpid() == process:
            raise StoppedAtOnce(signal.Signals(number).name)

    previous = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def tell_stop(name: str, stop: BaseException, cure: str) -> int:
    """Say that a command was stopped and what to do; returns its exit status."""
    signal_name = str(stop) or "SIGINT"
    print(f"\nprobediff {name}: stopped by {signal_name}{cure}", file=sys.stderr)
    return INTERRUPTED if signal_name == "SIGINT" else STOPPED
