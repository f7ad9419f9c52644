"""Stopping cleanly on a signal: schedulers and people get the step saved before the process ends."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from probediff.exceptions import StoppedAtOnce, StoppedBySignalError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Processes agree on stopping by a collective, which would cost a synchronisation in every step.
_AGREE_EVERY_N_STEPS = 16


class StopRequest:
    """Remembers that a signal came; the run looks at it between steps and between probe batches."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, Any] = {}

    def install(self, trainer: L.Trainer) -> None:
        """Take the signals, in the main thread, until ``uninstall``; launched processes get them too."""
        if threading.current_thread() is not threading.main_thread():
            return

        process = os.getpid()

        def remember(number: int, frame: FrameType | None) -> None:
            if os.getpid() != process:
                return  # A process that reads data: the run still needs its batch.
            name = signal.Signals(number).name
            # A terminal sends Ctrl-C to all processes of a run, and the first one hands it on: only there it counts.
            if self.signal_name == name == "SIGINT" and trainer.is_global_zero:
                raise StoppedAtOnce(name)
            launcher = trainer.strategy.launcher
            if self.signal_name is None and launcher is not None:
                launcher.kill(signal.Signals(number))
            if self.signal_name is None and trainer.is_global_zero:
                again = "; Ctrl-C again stops at once" if name == "SIGINT" else ""
                os.write(2, f"\n{name}: saving and stopping{again}\n".encode())
            self.signal_name = name

        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, remember)

    def uninstall(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def raise_if_requested(self) -> None:
        """Stop at once; for places where every process stops by itself.

        Raises:
            StoppedBySignalError: when a signal came.
        """
        if self.signal_name is not None:
            raise self.error()

    def error(self, where: str = "") -> StoppedBySignalError:
        """What to raise when the run is saved; ``where`` it stopped."""
        stop = StoppedBySignalError(f"stopped by {self.signal_name or 'another process'}{where}")
        stop.is_interrupt = self.signal_name == "SIGINT"
        return stop

    def agreed(self, trainer: L.Trainer) -> bool:
        """Whether all processes are to stop after this optimiser step."""
        if trainer.world_size == 1:
            return self.signal_name is not None
        if trainer.global_step % _AGREE_EVERY_N_STEPS:
            return False
        return trainer.strategy.reduce_boolean_decision(self.signal_name is not None, all=False)
