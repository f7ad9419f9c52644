"""Probes without training: any model, through the same pass, the same probes and the same records."""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from probediff.display.progress import progress_bar
from probediff.models.base import ProbeModel, undisturbed
from probediff.probing.probe import Probe, ProbeContext, TrainingImages
from probediff.probing.processes import barrier, is_first_process
from probediff.probing.recorder import Recorder, conventions_for, pass_request
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import Advance, PassRequest, run_pass
from probediff.probing.wiring_watch import WiringWatch
from probediff.runs.batches import PartialPass
from probediff.runs.conditions import OPTIONS, PROBES, WEIGHTS, all_differing_settings, as_json, settings_in
from probediff.runs.definitions import DEFINITIONS, find_redefined
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.lock import claim
from probediff.runs.results import ResultLogger
from probediff.runs.tracking import Tracker

PARTIAL_PASSES = "partial"


@dataclass(frozen=True)
class ProbeTask:
    """What is probed, how, and where the results go.

    Attributes:
        folder: gets records, samples and pictures, laid out like a run; a task that was interrupted goes on there.
        settings: what the pass makes.
        steps: training steps of the checkpoints, ascending; ``[0]`` for a model without checkpoints.
        load: step -> model.
        images: (N, C, H, W) images (a latent diffusion model's codes) to invert instead of samples.
        samples_of_step: invert, at every step, the samples that the model of this step makes (P1-F4).
        extra: what is recorded beside the settings and the model.
        real_images: n -> real images, for probes that compare with them.
        training: what is known of the training images, if the real images are these.
        config_text: the configuration of the command, kept in a new folder.
        checks_wiring: whether what is said of the model is compared with the real images.
    """

    folder: RunFolder
    settings: PassSettings
    steps: Sequence[int]
    load: Callable[[int], ProbeModel]
    images: Tensor | None = None
    samples_of_step: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    real_images: Callable[[int], Tensor] | None = None
    training: TrainingImages | None = None
    config_text: str = ""
    checks_wiring: bool = False

    def applicable(self, probes: Sequence[Probe]) -> list[Probe]:
        """The probes that make sense here: of images that are not the model's own, only their latents are news."""
        if self.images is not None:
            return [probe for probe in probes if probe.needs_latent and not probe.needs_pairs]
        if self.samples_of_step is not None:
            return [probe for probe in probes if probe.needs_latent and not probe.needs_trajectory]
        return list(probes)


def probe_afterwards(
    task: ProbeTask,
    probes: Sequence[Probe],
    device: torch.device,
    loggers: Sequence[ResultLogger] = (),
    progress: bool = True,
) -> Tracker | None:
    """Probe every step of ``task`` that has no complete event in its folder yet, then let the probes look back.

    With an initialised process group every process must call this; the first one measures and writes.

    Returns:
        Where the results went, to ask it for losses; None where everything was there already.

    Raises:
        ValueError: the folder holds results of other settings or weights, another process works there, or a probe
            cannot work with these settings.
    """
    with claim(task.folder.path, "--out") if is_first_process() else nullcontext():
        first = task.load(task.steps[0])
        first.eps_model.to(device)
        context = ProbeContext(
            task.settings, first.image_shape, task.folder, task.real_images, first.pixels, task.training, first.schedule
        )
        for probe in probes:
            probe.check(context)
        conventions = conventions_for(task.settings, first, **task.extra)
        _check_same(task, probes, conventions)
        barrier()
        return _probe(task, Recorder(probes, context, Tracker(task.folder, loggers), conventions), device, progress)


def _probe(task: ProbeTask, recorder: Recorder, device: torch.device, progress: bool) -> Tracker | None:
    complete = task.folder.complete_steps()
    pending = [step for step in task.steps if step not in complete]
    compared = [probe for probe in recorder.probes if probe.needs_previous]
    if task.folder.is_finished() and not pending and not _steps_to_compare_again(task, compared):
        return None
    if is_first_process():
        if not task.folder.records():
            task.folder.create().save_config(task.config_text)
        task.folder.reopen()
        task.folder.forget_incomplete()
        recorder.tracker.send_again()
    barrier()
    images = task.images
    if pending and task.samples_of_step is not None:
        images = _final_samples(task, task.load(task.samples_of_step), device, progress)
    for step in pending:
        _event(task, task.load(step), images, recorder, device, progress)
    for step in _steps_to_compare_again(task, compared):
        _compare_again(task, task.load(step), recorder, compared, device, progress)
    if is_first_process():
        recorder.finish(task.steps[-1])
        shutil.rmtree(task.folder.path / PARTIAL_PASSES, ignore_errors=True)
    return recorder.tracker


def _steps_to_compare_again(task: ProbeTask, probes: Sequence[Probe]) -> list[int]:
    """Complete steps that were not compared with the step before them, because that one was probed later."""
    records = {(record["step"], record["probe"]): record for record in task.folder.records()}
    steps = task.folder.sample_steps()
    outdated = set()
    for before, step in itertools.pairwise(steps):
        for probe in probes:
            record = records.get((step, probe.name()))
            if record is None or record["values"].get("previous_step") != before:
                outdated.add(step)
    return sorted(outdated & task.folder.complete_steps() & set(task.steps))


def _compare_again(
    task: ProbeTask,
    model: ProbeModel,
    recorder: Recorder,
    probes: Sequence[Probe],
    device: torch.device,
    progress: bool,
) -> None:
    model.eps_model.to(device)
    with undisturbed(model.eps_model), show_progress(model.step, progress) as advance:
        event = run_pass(model, task.settings, PassRequest(invert=False), advance)
        if is_first_process():
            task.folder.forget(model.step, {probe.name() for probe in probes})
            recorder.tracker.log([entry for probe in probes for entry in recorder.measure(probe, event)])
    barrier()


def _event(
    task: ProbeTask, model: ProbeModel, images: Tensor | None, recorder: Recorder, device: torch.device, progress: bool
) -> None:
    start = time.perf_counter()
    model.eps_model.to(device)
    conventions = conventions_for(task.settings, model, **task.extra)
    recorder = Recorder(recorder.probes, recorder.context, recorder.tracker, conventions)
    key = {"step": model.step, WEIGHTS: model.digest, **settings_in(recorder.conventions)}
    store = PartialPass(task.folder.path / PARTIAL_PASSES, key)
    request = pass_request(recorder.probes, PassRequest(images=images, paired=task.images is None, store=store))
    with undisturbed(model.eps_model), show_progress(model.step, progress) as advance:
        if task.checks_wiring:
            WiringWatch(task.folder, task.real_images).look(model)
        event = run_pass(model, task.settings, request, advance)
        if is_first_process():
            recorder.record(model.step, event, start, advance)
            if task.images is not None and event.latent is not None:
                task.folder.save_arrays(model.step, "latents", {"latent": event.latent})
    barrier()
    store.clear()


def _final_samples(task: ProbeTask, model: ProbeModel, device: torch.device, progress: bool) -> Tensor:
    """The samples of the final model; its batches are kept until their last use is over."""
    key = {"samples_of": model.step, WEIGHTS: model.digest, **asdict(task.settings), **model.conventions}
    store = PartialPass(task.folder.path / PARTIAL_PASSES, key)
    model.eps_model.to(device)
    with undisturbed(model.eps_model), show_progress(model.step, progress) as advance:
        return run_pass(model, task.settings, PassRequest(invert=False, store=store), advance).x_0


def _check_same(task: ProbeTask, probes: Sequence[Probe], wanted: dict[str, Any]) -> None:
    """Raise ValueError unless what is in the folder already was measured with these settings and weights."""
    cure = f"give another --out, or remove {task.folder.path}"
    records = [record for record in task.folder.records() if record["conventions"]]
    weights = {record["step"]: record.get(WEIGHTS) for record in records if record["probe"] == END_OF_EVENT}
    if None in weights.values():
        raise ValueError(
            f"{task.folder.path} was written by an earlier version, which did not record which weights; {cure}"
        )
    options = {probe.name(): as_json(probe.options()) for probe in probes}
    for record in records:
        of_probe = (OPTIONS, DEFINITIONS)
        conventions = {key: value for key, value in record["conventions"].items() if key not in of_probe}
        differing = all_differing_settings(conventions, wanted)
        if record["probe"] == END_OF_EVENT:
            differing |= all_differing_settings(record.get(PROBES) or {}, options)
        for key, words in find_redefined(record["probe"], record["conventions"]).items():
            raise ValueError(
                f"{task.folder.path} holds results of another definition: {key} of {record['probe']} is {words}; {cure}"
            )
        for key, (there, asked) in differing.items():
            raise ValueError(f"{task.folder.path} holds results with {key}={there!r}, asked for {asked!r}; {cure}")
    for step in weights.keys() & set(task.steps):
        if weights[step] != (digest := task.load(step).digest):
            raise ValueError(
                f"{task.folder.path} holds results of other weights at step {step}: {WEIGHTS}={weights[step]!r}, those "
                f"of the model are {digest!r}; {cure}"
            )


@contextmanager
def show_progress(step: int, shown: bool) -> Iterator[Advance]:
    """A bar of what an event does, on the first process."""
    with progress_bar(disable=not (shown and is_first_process()), leave=False, mininterval=0.5) as bar:

        def advance(part: str, done: int, total: int) -> None:
            if bar.total != total or part not in bar.desc:
                bar.reset(total)
                bar.set_description(f"step {step}: {part}", refresh=False)
            bar.update(done - bar.n)

        yield advance
