"""Sampling of exact denoisers: all prices are told before the work starts, and the quickest is sampled first."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from probediff.ddim import DDIMStep
from probediff.display.progress import progress_bar
from probediff.files.capacity import check_time, memory_bytes
from probediff.models.base import ProbeModel
from probediff.probing.exact_samples import BATCH_SIZE, ExactSamples, time_evaluation

#: Share of the memory for denoisers that stay there between their timing and their sampling.
_HELD_SHARE = 0.25
_UNITS = ((3600 * 24, "days"), (3600, "hours"), (60, "minutes"))


@dataclass(frozen=True)
class Pending:
    """Samples that are missing, with their price.

    Attributes:
        samples: of which denoiser.
        batches: indices of the missing ones.
        seconds: how long they may take.
        model: the denoiser, where it stayed in memory.
    """

    samples: ExactSamples
    batches: list[Tensor]
    seconds: float
    model: ProbeModel | None


def make_missing(every: Sequence[ExactSamples], device: torch.device) -> None:
    """Make the samples that are not there yet.

    Args:
        every: samples of several denoisers.
        device: where they are evaluated.

    Raises:
        ValueError: images that do not fit into memory, or work for more than a year.
    """
    for samples in every:
        samples.exact.check_memory(samples.images)
    pending = _find_prices(every, device)
    if pending:
        together = in_words(sum(work.seconds for work in pending))
        print(
            f"Together {together} on {device}: estimated from one evaluation of each at the middle step, of a batch of "
            f"{BATCH_SIZE} images, or of one image where that is slow",
            flush=True,
        )
    for work in sorted(pending, key=lambda work: work.seconds):
        model = work.model or work.samples.exact.fit(work.samples.images)
        total = len(work.batches) * work.samples.num_evaluations
        with progress_bar(total=total, desc=work.samples.exact.name, leave=False, mininterval=0.5) as bar:
            work.samples.make(model, work.batches, device, partial(_count, bar))


def _count(bar: Any, _: DDIMStep) -> None:
    bar.update()


def _find_prices(every: Sequence[ExactSamples], device: torch.device) -> list[Pending]:
    """Tell what each costs; those that are kept already, or were probed, cost nothing."""
    pending, held_bytes = [], 0
    for samples in every:
        batches = samples.missing()
        what = f"{samples.label}, M = {samples.num_images:,}"
        if not batches:
            print(f"{what}: there already", flush=True)
            continue
        model = samples.exact.fit(samples.images)
        if samples.take_from_probe(model):
            print(f"{what}: taken from {samples.probed_folder}", flush=True)
            continue
        count, seconds = time_evaluation(model, samples.settings, device)
        num_images = sum(map(len, batches))
        seconds *= samples.num_evaluations * num_images / count
        evaluations = num_images * samples.num_evaluations
        words = f"{num_images} images x {samples.num_evaluations} evaluations = {evaluations:,}"
        print(f"{what}: {words}, {in_words(seconds)}", flush=True)
        check_time(f"--denoisers {samples.label}", f"{evaluations:,} evaluations", seconds)
        held_bytes += sum(t.nbytes for t in chain(model.eps_model.parameters(), model.eps_model.buffers()))
        is_held = held_bytes <= _HELD_SHARE * memory_bytes()
        pending.append(Pending(samples, batches, seconds, model if is_held else None))
    return pending


def in_words(seconds: float) -> str:
    """A rough time."""
    for size, unit in _UNITS:
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {seconds:.2g} s"
