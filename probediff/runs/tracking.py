"""Where numbers go: the run's own folder first, then the loggers of its trainer."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from probediff.runs.conditions import WEIGHTS
from probediff.runs.descriptions import Description
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.lock import lock_writes
from probediff.runs.logger_adapters import Checkpoint, LoggerAdapter, adapt
from probediff.runs.record import STANDARD_ERRORS
from probediff.runs.results import Event, ProbeResult, RememberingLogger, scalars_of
from probediff.runs.stored_results import read_result


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
        line = {"step": self.step, "probe": self.probe, "values": self.result.values, "conventions": self.conventions}
        if self.result.standard_errors:
            line[STANDARD_ERRORS] = self.result.standard_errors
        return line | self.extra | ({"error": self.result.error} if self.result.error else {})

    @property
    def has_record(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.result.values or self.result.error or self.extra)


class Tracker:
    """Stores what probes find: in the run folder, then in loggers.

    Args:
        folder: the run's folder.
        loggers: the trainer's loggers; see ``probediff.runs.logger_adapters``.
    """

    def __init__(self, folder: RunFolder, loggers: Iterable[object]) -> None:
        self.folder = folder
        self._loggers = [adapt(logger) for logger in loggers]
        self._last_scalars: dict[str, float] | None = None
        self._unwritten: list[Entry] = []
        self._lost: dict[str, list[int]] = {}
        self._catalogue = folder.catalogue()
        self._described: set[str] = set()

    def log(self, entries: Sequence[Entry]) -> None:
        """Store the results of one event; its records appear together.

        A disk that is full does not end the training: records that cannot be written are kept and tried again with the
        next event, and ``lost_results`` tells what is missing in the end.
        """
        for entry in entries:
            with self._tolerate_full_disk(f"pictures or arrays of {entry.probe}", entry.step):
                self.folder.store(entry.step, entry.probe, entry.result)
        self._unwritten += [entry for entry in entries if entry.has_record]
        with self._tolerate_full_disk("records"), lock_writes(self.folder.path):
            self.folder.append(*(entry.record() for entry in self._unwritten))
            self._unwritten.clear()
        with self._tolerate_full_disk("catalogue"):
            self._describe(entries)
        self._log_elsewhere(entries)
        if self._last_scalars is not None and any(entry.probe == END_OF_EVENT for entry in entries):
            self._last_scalars |= scalars_of({entry.probe: entry.result for entry in entries})

    def _log_elsewhere(self, entries: Sequence[Entry]) -> None:
        """Hand the results of each step to every logger at once: some of them have one row a step."""
        for step in dict.fromkeys(entry.step for entry in entries):
            there = [entry for entry in entries if entry.step == step]
            results = {entry.probe: entry.result for entry in there if entry.result.is_shown}
            digests = [
                entry.extra[WEIGHTS] for entry in there if entry.probe == END_OF_EVENT and WEIGHTS in entry.extra
            ]
            for logger in self._loggers:
                logger.log_event(step, results, self._checkpoint(step, *digests))

    def _checkpoint(self, step: int, weights_sha256: str = "") -> Checkpoint | None:
        path = self.folder.checkpoint_path(step)
        return (path, weights_sha256) if weights_sha256 and path.exists() else None

    @property
    def last_scalars(self) -> dict[str, float]:
        """The newest number of every quantity by its key in loggers, for whoever monitors them.

        Of a run that goes on they are read from its records; what could not be measured keeps its number before.
        """
        if self._last_scalars is None:
            records = self.folder.records()
            complete = {record["step"] for record in records if record["probe"] == END_OF_EVENT}
            self._last_scalars = {}
            for record in (record for record in records if record["step"] in complete):
                values = {key: math.nan if value is None else value for key, value in record["values"].items()}
                self._last_scalars |= scalars_of({record["probe"]: ProbeResult(values)})
        return self._last_scalars

    def send_again(self) -> int:
        """Send what the records have to the loggers that lack it: a run that is killed takes with it what they held.

        For the first process of a run that goes on, after its folder was rewound.

        Returns:
            How many results were sent.
        """
        records = {(record["step"], record["probe"]): record for record in self.folder.records() if record["values"]}
        sent: list[Event] = []

        def send(adapter: LoggerAdapter) -> None:
            for event in adapter.logger.missing_events(list(records)):
                (step, probe), record = event, records[event]
                checkpoint = self._checkpoint(step, record.get(WEIGHTS, ""))
                adapter.log_event(step, {probe: read_result(self.folder, record)}, checkpoint)
                sent.append(event)

        for adapter in self._loggers:
            if isinstance(adapter.logger, RememberingLogger):
                adapter.attempt(partial(send, adapter))
        return len(sent)

    def save_samples(self, step: int, x_0: Tensor) -> None:
        """Store the samples of ``step``."""
        with self._tolerate_full_disk("samples", step):
            self.folder.save_samples(step, x_0)

    def note_loss(self, content: str, step: int) -> None:
        """Remember that something of a step could not be kept."""
        self._lost.setdefault(content, []).append(step)

    def lost_results(self) -> list[str]:
        """What could not be kept: a line a kind, such as ``samples of step 5, 10``; empty if nothing is missing."""
        lost = {content: sorted(set(steps)) for content, steps in self._lost.items()}
        if self._unwritten:
            lost["records"] = sorted({entry.step for entry in self._unwritten})
        return [f"{content} of step {', '.join(map(str, steps))}" for content, steps in lost.items()]

    def _describe(self, entries: Sequence[Entry]) -> None:
        """Say in the folder what the quantities are, those of probes that the catalogue lacks by their names alone."""
        for entry in entries:
            known = self._catalogue.get(entry.probe, Description(entry.probe, entry.probe.replace("_", " ")))
            self._catalogue[entry.probe] = known.extended(entry.result.kinds())
            if self._catalogue[entry.probe] != known:
                self._described.discard(entry.probe)
        if new := {entry.probe for entry in entries if entry.result.kinds()} - self._described:
            with lock_writes(self.folder.path):
                self.folder.save_catalogue(self._catalogue[probe] for probe in sorted(new))
            self._described |= new

    @contextmanager
    def _tolerate_full_disk(self, content: str, step: int | None = None) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            if step is not None:
                self.note_loss(content, step)
            warnings.warn(
                f"{content} could not be written to {self.folder.path} ({error}); going on without. Free some space.",
                stacklevel=4,
            )
