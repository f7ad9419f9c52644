"""Signals while nothing is being trained: a command ends at once, in words. Nothing heavy is imported."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from probediff.exceptions import StoppedAtOnce

#: Exit status after Ctrl-C, and after other signals of a run that wants to be started again (EX_TEMPFAIL, sysexits.h).
INTERRUPTED, STOPPED = 130, 75
#: What ``fit`` answers.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Let signals raise `StoppedAtOnce` until somebody else takes them."""

    def stop(name: str) -> None:
        raise StoppedAtOnce(name)

    with _answering(STOPPING, stop):
        yield


@contextmanager
def end_while_importing(numbers: Sequence[signal.Signals], tell: Callable[[str], int]) -> Iterator[None]:
    """Let signals end the process: extensions that are being imported lose exceptions or turn them into others.

    Args:
        numbers: the signals.
        tell: says the name of the signal and returns the exit status.
    """
    with _answering(numbers, lambda name: os._exit(tell(name))):
        yield


@contextmanager
def _answering(numbers: Sequence[signal.Signals], answer: Callable[[str], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def act(number: int, _: object) -> None:
        # A terminal sends Ctrl-C to all processes; those that read data end with the one that they read for.
        if os.getpid() == process:
            answer(signal.Signals(number).name)

    previous = {number: signal.signal(number, act) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def tell_stop(command: str, signal_name: str, cure: str) -> int:
    """Say that a command was stopped and what to do; returns its exit status."""
    print(f"\nprobediff {command}: stopped by {signal_name}{cure}", file=sys.stderr)
    return INTERRUPTED if signal_name == "SIGINT" else STOPPED
