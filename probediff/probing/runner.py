"""Probes in any training loop: a plain one, under accelerate or torchrun, without a Trainer."""

import operator
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from probediff.exceptions import describe_failure
from probediff.models.base import ProbeModel, at_rest
from probediff.probing.afterwards import show_progress
from probediff.probing.probe import Probe, ProbeContext, check_probes, images_function
from probediff.probing.processes import is_first_process, on_first_process, raise_together, share
from probediff.probing.recorder import Recorder, conventions_for, pass_request
from probediff.probing.run_config import begin_run, describe_loop, describe_probes
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import is_survivable, run_pass
from probediff.probing.wiring_watch import WiringWatch
from probediff.runs.aside import set_aside_after
from probediff.runs.conditions import WEIGHTS
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.gaps import tell_redefined
from probediff.runs.lock import claim
from probediff.runs.tracking import Tracker


class ProbeRunner:
    """Probes a model whenever a training loop calls it: ``runner(step, model)``.

    The folder is that of a run: records, samples and pictures, as `probediff fit` writes them, for `probediff report`
    and `probediff runs`. Checkpoints are the loop's own. With an initialised process group (torchrun, accelerate) every
    process calls the runner at the same steps with the same weights; the work is shared, the first process writes.

    Example::

        with ProbeRunner("runs/mine", [InversionAngles()], PassSettings(num_samples=256)) as runner:
            for step, batch in enumerate(batches):
                if step % 1000 == 0:
                    runner(step, wrap_network(network, NoiseSchedule.linear(1000), (3, 32, 32)))
                ...

    Args:
        folder: of the run.
        probes: what measures, such as those of ``probediff.callbacks``.
        settings: what is generated and how; which weights are probed is said by the model.
        real_images: (N, C, H, W) in [-1, 1], or n -> n of them, for probes that compare with them.
        config: what else the run is, as plain types such as ``{"learning_rate": 1e-4, "seed": 0}``; a report tells runs
            apart by it.
        loggers: loggers of Lightning, which get the numbers too.
        resume: go on with the run in the folder; without it a folder that holds one is refused.
        progress: show how far a pass is.

    Raises:
        ValueError: at the first call, for settings that model or probes do not allow, or a folder that holds a run.
    """

    def __init__(
        self,
        folder: str | Path,
        probes: Sequence[Probe],
        settings: PassSettings = PassSettings(),  # noqa: B008 (frozen)
        real_images: Tensor | Callable[[int], Tensor] | None = None,
        config: Mapping[str, Any] | None = None,
        loggers: Sequence[object] = (),
        resume: bool = False,
        progress: bool = True,
    ) -> None:
        self.folder = RunFolder(folder)
        if not (isinstance(probes, Sequence) and isinstance(loggers, Sequence)):
            raise ValueError("probes and loggers must be lists, such as [InversionAngles()], got something else")
        self.probes = [probe for probe in probes if getattr(probe, "enabled", True)]
        self.settings = settings
        self.real_images = images_function(real_images)
        self.config = config or {}
        self.loggers = loggers
        self.resume = resume
        self.progress = progress
        self._owning = ExitStack()
        self._recorder: Recorder | None = None
        self._last_step = -1
        self._is_finished = False

    def __call__(self, step: int, model: ProbeModel) -> dict[str, float]:
        """Probe a model; with several processes each of them must call this.

        Args:
            step: optimiser steps so far.
            model: see ``probediff.models.wrap_network``; flags, gradients and random states are as before afterwards.

        Returns:
            The numbers, ``probe/<probe>/<quantity>``, on every process.

        Raises:
            ValueError: see the class; or no model, or a step that is none or not after the last one, or after `finish`.
        """
        if not isinstance(model, ProbeModel):
            raise ValueError(f"model must be a ProbeModel, such as of wrap_network, got {type(model).__name__}")
        if self._is_finished:
            raise ValueError(f"ProbeRunner must not be called after finish, got step {step}; make one with resume=True")
        step = _whole(step)
        model = replace(model, step=step)
        is_first_event = self._recorder is None
        if self._recorder is None:
            self._recorder = self._begin(step, model)
            known: dict[str, float] | None = share(self._known_scalars(model, self._recorder.tracker))
            if known is not None:
                self._last_step = step
                return known
        elif step <= self._last_step:
            raise ValueError(f"step must be larger than that of the last event, {self._last_step}, got {step}")
        recorder, start = self._recorder, time.perf_counter()
        recorder.conventions = self._conventions(model)
        with show_progress(step, self.progress) as advance, at_rest(model, model.weight.device):
            self._wiring.look(model)
            event, failure = None, None
            try:
                event = run_pass(model, self.settings, pass_request(self.probes), advance) if self.probes else None
            except Exception as error:
                # At the first event nothing is lost by an end, and what is wrong stays wrong.
                if is_first_event or not is_survivable(error):
                    raise
                failure = describe_failure(error)
            record = partial(recorder.record, step, event, start, advance, (), failure)
            scalars = on_first_process(record, model.weight.device)
        self._last_step = step
        return share(scalars) or {}

    def finish(self) -> list[str]:
        """Let the probes look back over the run, and close it; every process must call this.

        Returns:
            What could not be written, a line a kind; empty if nothing is missing.
        """
        lost: list[str] = []
        if self._recorder is not None:
            if is_first_process() and not self._is_finished:
                self._recorder.finish(self._last_step)
            self._is_finished = True
            lost = self._recorder.tracker.lost_results()
        self._owning.close()
        return lost

    def __enter__(self) -> Self:
        """The runner, which finishes when the block ends without an error."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Finish; after an error the run stays unfinished, and can be gone on with."""
        if error is None:
            self.finish()
        self._owning.close()

    def _conventions(self, model: ProbeModel) -> dict[str, Any]:
        known = model.conventions
        weights = known.get("weights", "as given" if known.get("ema_rate") is None else "ema")
        return conventions_for(self.settings, model, weights=weights)

    def _begin(self, step: int, model: ProbeModel) -> Recorder:
        """Check everything, then take the folder, on the first process."""
        self.settings.check_model(model)
        context = ProbeContext(
            self.settings, model.image_shape, self.folder, self.real_images, model.pixels, schedule=model.schedule
        )
        check_probes(self.probes, context)
        raise_together(partial(self._take_folder, step))
        self._wiring = WiringWatch(self.folder, self.real_images)
        tracker = Tracker(self.folder, self.loggers)
        if is_first_process():
            tracker.send_again()
        return Recorder(self.probes, context, tracker, self._conventions(model))

    def _take_folder(self, step: int) -> None:
        path = self.folder.path
        self._owning.enter_context(claim(path, "folder"))
        goes_on = bool(self.folder.records())
        if goes_on and not self.resume:
            raise ValueError(f"folder must be without a run, got {path}, which holds one; give another, or resume=True")
        self.folder.create()
        described = describe_loop(self.config) | describe_probes(self.settings, self.probes)
        begin_run(self.folder, described, step if goes_on else None)
        if not goes_on:
            return
        tell_redefined(self.folder)
        if (later := set_aside_after(path, step)) is not None:
            warnings.warn(f"what was there of steps after {step} is in {later}", stacklevel=5)
        self.folder.rewind(step)

    def _known_scalars(self, model: ProbeModel, tracker: Tracker) -> dict[str, float] | None:
        """What the run has recorded of the step already, where it was of the same weights; else that is taken back."""
        if not is_first_process():
            return None
        records = [record for record in self.folder.records() if record["step"] == model.step]
        end = next((record for record in records if record["probe"] == END_OF_EVENT), None)
        if end is None:
            return None
        if end.get(WEIGHTS) != (model.digest if self.probes else None):
            warnings.warn(
                f"step {model.step} is probed again: the weights are others than those recorded", stacklevel=3
            )
            self.folder.rewind(model.step - 1)
            return None
        return tracker.last_scalars


def _whole(step: Any) -> int:
    """The step as a number that a record can have; raises ValueError where it is none."""
    try:
        number = operator.index(step)  # of numpy and torch too
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"step must be a whole number from 0 on, got {step!r}")
    return number
