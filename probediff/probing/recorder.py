"""What happens at a checkpoint, while training and afterwards: each probe measures the pass, all is recorded."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from operator import index as whole_number
from typing import Any

from probediff.exceptions import StoppedBySignalError, describe_failure
from probediff.models.base import ProbeModel, conditions_of
from probediff.probing.probe import Probe, ProbeContext
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import PASS, Advance, PassRequest, ProbePass
from probediff.runs.conditions import OPTIONS, PROBES, WEIGHTS
from probediff.runs.definitions import DEFINITIONS, definitions_of
from probediff.runs.folder import END_OF_EVENT, FINISHED
from probediff.runs.results import ProbeResult, scalars_of
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
    """All that a probe's number depends on beside the weights, as plain types for the record.

    Where it is computed is where the model is: conventions are asked for when it lies there.
    """
    return asdict(settings) | model.conventions | others | conditions_of(model.weight.device)


class Recorder:
    """Measures passes and stores what comes out; a probe that fails leaves a record that says why.

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
        self,
        step: int,
        event: ProbePass | None,
        start: float,
        advance: Advance,
        before: Sequence[Entry] = (),
        failure: str | None = None,
    ) -> dict[str, float]:
        """Measure one pass with every probe, and store the whole event in one write.

        Args:
            step: training step of the event.
            event: the pass; None where no probe wants one, or it failed.
            start: when the pass began, of ``time.perf_counter``.
            advance: told which probe is measuring.
            before: entries that lead the event, such as the training loss.
            failure: why the pass failed.

        Returns:
            The numbers as loggers call them, ``probe/<probe>/<quantity>``.

        Raises:
            ValueError: the model makes images of another shape than at the first event.
        """
        if event is not None and (shape := tuple(event.noise.shape[1:])) != tuple(self.context.image_shape):
            raise ValueError(
                f"image_shape must stay {self.context.image_shape} in a run, got {shape} at step {step}: noises and "
                "pictures would not belong together; probe the other shape into another folder"
            )
        entries = list(before)
        identity = identify_weights(event)
        if failure is not None:
            again = f"`probediff probe {self.context.folder.path}` can measure its checkpoint"
            warnings.warn(f"no probe has a result at step {step}: {failure}; {again}", stacklevel=2)
            entries.append(Entry(step, PASS, ProbeResult(error=failure), self.conventions))
        if event is not None:
            seconds = time.perf_counter() - start
            if event.paired:
                self.tracker.save_samples(step, event.x_0)
            evaluations = ProbeResult({"network_evaluations": float(event.evaluations)})
            extra = {"seconds": round(seconds, 3)} | identity
            entries.append(Entry(step, PASS, evaluations, self.conventions, extra))
            for done, probe in enumerate(self.probes):
                advance(probe.name(), done, len(self.probes))
                entries += self.measure(probe, event)
        timing = {f"{e.probe}_seconds": e.extra["seconds"] for e in entries if "seconds" in e.extra}
        timing |= {f"{e.probe}_{part}_seconds": s for e in entries for part, s in e.result.seconds.items()}
        timing["event_seconds"] = time.perf_counter() - start
        asked = identity | {PROBES: {probe.name(): probe.options() for probe in self.probes}}
        entries.append(Entry(step, END_OF_EVENT, ProbeResult(timing), self.conventions, asked))
        self.tracker.log(entries)
        return scalars_of({entry.probe: entry.result for entry in entries})

    def measure(self, probe: Probe, event: ProbePass) -> list[Entry]:
        """What one probe finds; none where it has nothing to say."""
        start = time.perf_counter()
        result, errors = ProbeResult(), list[str]()
        with _attempt(probe, event.step, errors):
            result = probe.measure(event).validate()
        if errors:
            result = ProbeResult(error=errors[0])
        conventions = self._conventions_of(probe)
        if not (result.values or result.error):
            return [Entry(event.step, probe.name(), result, conventions)]
        extra = {"seconds": round(time.perf_counter() - start, 3)} | identify_weights(event)
        return [Entry(event.step, probe.name(), result, conventions, extra)]

    def _conventions_of(self, probe: Probe) -> dict[str, Any]:
        of_probe = {OPTIONS: probe.options(), DEFINITIONS: definitions_of(probe.name())}
        return self.conventions | {key: value for key, value in of_probe.items() if value}

    def finish(self, last_step: int) -> None:
        """Let the probes look back over the whole run, and close it."""
        entries = []
        for probe in self.probes:
            results, errors = dict[int, ProbeResult](), list[str]()
            with _attempt(probe, last_step, errors):
                results = {whole_number(step): r.validate() for step, r in probe.finish(self.context).items()}
            if errors:
                results = {last_step: ProbeResult(error=errors[0])}
            entries += [
                Entry(step, f"{probe.name()}_final", result, self._conventions_of(probe))
                for step, result in results.items()
            ]
        finished = Entry(last_step, FINISHED, ProbeResult({"last_step": float(last_step)}), {})
        self.tracker.log([*entries, finished])


def identify_weights(event: ProbePass | None) -> dict[str, str]:
    """For the record of an event: which weights were probed."""
    return {} if event is None or event.model is None else {WEIGHTS: event.model.digest}


@contextmanager
def _attempt(probe: Probe, step: int, errors: list[str]) -> Iterator[None]:
    """Note why a probe failed and go on: whatever goes wrong in one must not end days of training."""
    try:
        yield
    except StoppedBySignalError:
        raise
    except (Exception, SystemExit) as error:
        words = describe_failure(error)
        warnings.warn(f"{probe.name()} has no result at step {step}: {words}", stacklevel=4)
        errors.append(words)
