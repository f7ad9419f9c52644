"""Probes without training: any model, through the same pass, the same probes and the same records."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from probediff.files import save_tensors
from probediff.models.base import ProbeModel, undisturbed
from probediff.probing.probe import Probe, ProbeContext
from probediff.probing.recorder import Recorder, conventions_for, pass_request
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import Advance, PassRequest, run_pass
from probediff.runs.batches import PartialPass
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.results import ResultLogger
from probediff.runs.tracking import Tracker


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
    """

    folder: RunFolder
    settings: PassSettings
    steps: Sequence[int]
    load: Callable[[int], ProbeModel]
    images: Tensor | None = None
    samples_of_step: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    real_images: Callable[[int], Tensor] | None = None

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
) -> None:
    """Probe every step of ``task`` that has no complete event in its folder yet, then let the probes look back.

    With an initialised process group every process must call this; the first one measures and writes.

    Raises:
        ValueError: the folder holds results of other settings, or a probe cannot work with these.
    """
    first = task.load(task.steps[0])
    folder = task.folder.create()
    context = ProbeContext(task.settings, first.image_shape, folder, task.real_images, first.pixels)
    for probe in probes:
        probe.check(context)
    _check_same_settings(task, conventions_for(task.settings, first, **task.extra))
    complete = {r["step"] for r in task.folder.records() if r["probe"] == END_OF_EVENT}
    pending = [step for step in task.steps if step not in complete]
    finished = task.folder.is_finished()
    _barrier()
    if finished and not pending:
        return
    if finished and _is_first_process():
        task.folder.reopen()
    tracker = Tracker(task.folder, loggers)
    for step in pending:
        model = task.load(step)
        conventions = conventions_for(task.settings, model, **task.extra)
        _event(task, model, Recorder(probes, context, tracker, conventions), device, progress)
    if _is_first_process():
        conventions = conventions_for(task.settings, first, **task.extra)
        Recorder(probes, context, tracker, conventions).finish(task.steps[-1])


def _event(task: ProbeTask, model: ProbeModel, recorder: Recorder, device: torch.device, progress: bool) -> None:
    start = time.perf_counter()
    images = task.images if task.samples_of_step is None else _final_samples(task, device, progress)
    store = PartialPass(task.folder.path / "partial", {"step": model.step, **recorder.conventions})
    request = pass_request(recorder.probes, PassRequest(images=images, paired=task.images is None, store=store))
    model.eps_model.to(device)
    with undisturbed(model.eps_model), _progress(model.step, progress) as advance:
        event = run_pass(model, task.settings, request, advance)
        if _is_first_process():
            recorder.record(model.step, event, start, advance)
            if task.images is not None and event.latent is not None:
                task.folder.save_arrays(model.step, "latents", {"latent": event.latent})
    _barrier()
    store.clear()


def _final_samples(task: ProbeTask, device: torch.device, progress: bool) -> Tensor:
    """The samples of ``task.samples_of_step``, made once."""
    path = task.folder.path / "final_samples.safetensors"
    if not path.exists():
        assert task.samples_of_step is not None
        model = task.load(task.samples_of_step)
        store = PartialPass(task.folder.path / "partial", {"samples_of": model.step, **model.conventions})
        model.eps_model.to(device)
        with undisturbed(model.eps_model), _progress(model.step, progress) as advance:
            samples = run_pass(model, task.settings, PassRequest(invert=False, store=store), advance).x_0
        if _is_first_process():
            save_tensors(path, {"x_0": samples})
        _barrier()
        store.clear()
    return load_file(path)["x_0"]


def _check_same_settings(task: ProbeTask, wanted: dict[str, Any]) -> None:
    for record in task.folder.records():
        there = record["conventions"]
        differing = [key for key in wanted if there and key in there and there[key] != _plain(wanted[key])]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{task.folder.path} holds results with {key}={there[key]!r}, asked for {wanted[key]!r}; "
                f"give another --out, or remove that folder"
            )


def _plain(value: Any) -> Any:
    """What a value is after a round trip through JSON."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def same_numbers(task: ProbeTask, run: Path) -> tuple[int, int]:
    """How many records of ``task`` have an equal twin among the records of ``run``: (equal, with a twin).

    A twin is a record of the same probe, step and conventions; durations do not count.
    """
    theirs = {(r["step"], r["probe"]): r for r in RunFolder(run).records() if r["probe"] not in _NOT_MEASURED}
    equal = compared = 0
    for record in task.folder.records():
        twin = theirs.get((record["step"], record["probe"]))
        if twin is not None and twin["conventions"] == record["conventions"]:
            compared += 1
            equal += twin["values"] == record["values"]
    return equal, compared


_NOT_MEASURED = (END_OF_EVENT, "run")


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


@contextmanager
def _progress(step: int, shown: bool) -> Iterator[Advance]:
    with tqdm(disable=not (shown and _is_first_process()), leave=False, mininterval=0.5) as bar:

        def advance(part: str, done: int, total: int) -> None:
            if bar.total != total or part not in bar.desc:
                bar.reset(total)
                bar.set_description(f"step {step}: {part}", refresh=False)
            bar.update(done - bar.n)

        yield advance
