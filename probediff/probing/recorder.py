"""What happens at a checkpoint, while training and afterwards: each probe measures the pass, all is recorded."""

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from probediff.models.base import ProbeModel
from probediff.probing.probe import Probe, ProbeContext
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import Advance, PassRequest, ProbePass
from probediff.runs.folder import END_OF_EVENT, FINISHED
from probediff.runs.results import ProbeResult
from probediff.runs.tracking import Entry, Tracker


def pass_request(probes: Iterable[Probe], request: PassRequest = PassRequest()) -> PassRequest:  # noqa: B008 (frozen)
    """``request`` with as much as ``probes`` need and no more."""
    probes = list(probes)
    return replace(
        request,
        invert=any(probe.needs_latent for probe in probes),
        trajectory=request.images is None and any(probe.needs_trajectory for probe in probes),
    )


def conventions_for(settings: PassSettings, model: ProbeModel, **others: Any) -> dict[str, Any]:
    """All that a probe's number depends on beside the weights, as plain types for the record."""
    return asdict(settings) | model.conventions | others


class Recorder:
    """Measures passes and stores what comes out.

    Args:
        probes: who measures.
        context: what the probes know of the run.
        tracker: where results go.
        conventions: what is recorded with every number.
    """

    def __init__(
        self, probes: Sequence[Probe], context: ProbeContext, tracker: Tracker, conventions: dict[str, Any]
    ) -> None:
        self.probes = probes
        self.context = context
        self.tracker = tracker
        self.conventions = conventions

    def record(
        self, step: int, event: ProbePass | None, start: float, advance: Advance, before: Sequence[Entry] = ()
    ) -> None:
        """Measure one pass with every probe, and store the whole event in one write.

        Args:
            step: training step of the event.
            event: the pass; None where no probe wants one.
            start: when the pass began, of ``time.perf_counter``.
            advance: told which probe is measuring.
            before: entries that lead the event, such as the training loss.
        """
        entries = list(before)
        if event is not None:
            seconds = time.perf_counter() - start
            if event.paired:
                self.tracker.save_samples(step, event.x_0)
            evaluations = ProbeResult({"network_evaluations": float(event.evaluations)})
            entries.append(Entry(step, "pass", evaluations, self.conventions, {"seconds": round(seconds, 3)}))
            for done, probe in enumerate(self.probes):
                advance(probe.name(), done, len(self.probes))
                entries.append(self._measure(probe, event))
        timing = {f"{e.probe}_seconds": e.extra["seconds"] for e in entries if "seconds" in e.extra}
        timing["event_seconds"] = time.perf_counter() - start
        self.tracker.log([*entries, Entry(step, END_OF_EVENT, ProbeResult(timing), self.conventions)])

    def _measure(self, probe: Probe, event: ProbePass) -> Entry:
        start = time.perf_counter()
        result, extra = ProbeResult(), dict[str, Any]()
        try:
            result = probe.measure(event)
        except ValueError as error:
            # A degenerate sample set (say, constant images) must not end days of training.
            warnings.warn(f"{probe.name()} has no result at step {event.step}: {error}", stacklevel=3)
            extra["error"] = str(error)
        if result.values or extra:
            extra["seconds"] = round(time.perf_counter() - start, 3)
        return Entry(event.step, probe.name(), result, self.conventions, extra)

    def finish(self, last_step: int) -> None:
        """Let the probes look back over the whole run, and close it."""
        entries = [
            Entry(step, f"{probe.name()}_final", result, self.conventions)
            for probe in self.probes
            for step, result in probe.finish(self.context).items()
        ]
        finished = Entry(last_step, FINISHED, ProbeResult({"last_step": float(last_step)}), {})
        self.tracker.log([*entries, finished])
