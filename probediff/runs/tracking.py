"""Where numbers go: the run's own folder first, then the loggers that take results, such as W&B's."""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from probediff.runs.catalogue import Description
from probediff.runs.folder import RunFolder
from probediff.runs.results import ProbeResult, ResultLogger


@dataclass(frozen=True)
class Entry:
    """One probe's result on its way to the records.

    Attributes:
        step: training step.
        probe: name of the probe.
        result: what it found.
        conventions: all that the numbers depend on beside the weights.
        extra: further keys of the record, such as its seconds or its error.
    """

    step: int
    probe: str
    result: ProbeResult
    conventions: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The line in the records."""
        return {
            "step": self.step,
            "probe": self.probe,
            "values": self.result.values,
            "conventions": self.conventions,
            **self.extra,
        }


class Tracker:
    """Stores what probes find: in the run folder, then in the loggers that take results.

    Args:
        folder: the run's folder.
        loggers: the trainer's loggers; only ``ResultLogger`` get anything.
    """

    def __init__(self, folder: RunFolder, loggers: Iterable[object]) -> None:
        self.folder = folder
        self._loggers = [logger for logger in loggers if isinstance(logger, ResultLogger)]
        self._unwritten: list[Entry] = []
        self._catalogue = folder.catalogue()
        self._described: set[str] = set()

    def log(self, entries: Sequence[Entry]) -> None:
        """Store the results of one event; its records appear together.

        A disk that is full does not end the training: what cannot be written is kept and tried again with the next
        event.
        """
        for entry in entries:
            with self._tolerate_full_disk(f"pictures or arrays of {entry.probe}"):
                self.folder.store(entry.step, entry.probe, entry.result)
        self._unwritten += [entry for entry in entries if entry.result.values or entry.extra]
        with self._tolerate_full_disk("records"):
            self.folder.append(*(entry.record() for entry in self._unwritten))
            self._unwritten.clear()
        self._describe(entries)
        for logger, entry in itertools.product(self._loggers, entries):
            if entry.result.values or entry.result.pictures:
                logger.log_result(entry.step, entry.probe, entry.result)

    def save_samples(self, step: int, x_0: Tensor) -> None:
        """Store the samples of ``step``."""
        with self._tolerate_full_disk("samples"):
            self.folder.save_samples(step, x_0)

    def _describe(self, entries: Sequence[Entry]) -> None:
        """Say in the folder what the quantities are, those of probes that the catalogue lacks by their names alone."""
        for entry in entries:
            known = self._catalogue.get(entry.probe, Description(entry.probe, entry.probe.replace("_", " ")))
            self._catalogue[entry.probe] = known.extended(entry.result.kinds())
            if self._catalogue[entry.probe] != known:
                self._described.discard(entry.probe)
        if new := {entry.probe for entry in entries if entry.result.kinds()} - self._described:
            with self._tolerate_full_disk("catalogue"):
                self.folder.save_catalogue(self._catalogue[probe] for probe in sorted(new))
                self._described |= new

    @contextmanager
    def _tolerate_full_disk(self, content: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"{content} could not be written to {self.folder.path} ({error}); training goes on. Free some space.",
                stacklevel=4,
            )
