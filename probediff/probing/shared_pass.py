"""The pass that all probes share: fixed noise -> samples -> latents, once per checkpoint, sharded over processes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.ddim import DDIMStep, OnStep, State
from probediff.exceptions import PassFailedError, StoppedBySignalError, describe_failure
from probediff.inversion import Problem, inverter, sampler
from probediff.measures import TrajectoryDistances, TrajectoryRecorder
from probediff.models.base import ProbeModel
from probediff.noise import seeded_noise
from probediff.probing.processes import num_processes
from probediff.probing.settings import PassSettings
from probediff.runs.batches import BatchStore
from probediff.schedule import NoiseSchedule

#: ``(part, done, total)``
Advance = Callable[[str, int, int], None]
#: What a progress display is told while the pass runs, and the name of its record; the others are the probes' names.
PASS = "pass"
_TRAJECTORY = ("squared_from_noise", "along_latent", "squared_latent")


@dataclass(frozen=True)
class PassRequest:
    """What a pass makes.

    Attributes:
        invert: invert the samples.
        trajectory: measure the way from noise to sample against the latent (needs ``invert``).
        images: (N, C, H, W) images to invert instead of samples of the model.
        paired: whether row i of ``images`` was made from noise i.
        store: where finished batches are kept.
    """

    invert: bool = True
    trajectory: bool = False
    images: Tensor | None = None
    paired: bool = True
    store: BatchStore | None = None


@dataclass(frozen=True)
class ProbePass:
    """What one pass made; tensors are (N, C, H, W) float32 on the CPU, row i belongs to noise i.

    Attributes:
        step: optimiser steps that the model has seen.
        settings: how it was made.
        noise: the fixed Gaussian noise x_T.
        x_0: samples, or the images that were handed in.
        latent: inversions of x_0; None when no probe needs them.
        evaluations: network evaluations per image.
        paired: whether x_0 was made from the noise (False for a user's images).
        trajectory: how the samplers' ways lie between noise and latent; None when no probe needs it.
        model: the model that was asked; None for a pass that was put together by hand.
    """

    step: int
    settings: PassSettings
    noise: Tensor
    x_0: Tensor
    latent: Tensor | None
    evaluations: int = 0
    paired: bool = True
    trajectory: TrajectoryDistances | None = None
    model: ProbeModel | None = None

    @property
    def shows_pixels(self) -> bool:
        """Whether ``x_0`` are pixels, and not the codes of a latent diffusion model."""
        return self.model is None or self.model.decode is None

    @property
    def schedule(self) -> NoiseSchedule:
        """The model's schedule."""
        return self._known_model().schedule

    def pixels(self, x_0: Tensor | None = None) -> Tensor:
        """``x_0`` (the pass's own by default) as images for eyes and feature networks."""
        x_0 = self.x_0 if x_0 is None else x_0
        return x_0 if self.model is None else self.model.pixels(x_0)

    def sample(self, noise: Tensor) -> Tensor:
        """Samples of (M, C, H, W) noises or latents with the settings of the pass, float32 on the CPU."""
        model = self._known_model()
        sample = sampler(problem_of(model, self.settings), self.settings.inversion)
        batches = noise.split(self.settings.batch_size)
        return torch.cat([sample(x_T.to(model.weight), None).x.float().cpu() for x_T in batches])

    @torch.no_grad()
    def eps(self, x: Tensor, timestep: Tensor) -> Tensor:
        """What the model predicts for (M, C, H, W) inputs at (M,) timesteps; where and of what dtype ``x`` is."""
        model = self._known_model()
        parts = zip(x.split(self.settings.batch_size), timestep.split(self.settings.batch_size), strict=True)
        weight = model.weight
        return torch.cat([model.eps_model(a.to(weight), t.to(weight.device)).to(x) for a, t in parts])

    @torch.no_grad()
    def denoise(self, x: Tensor, timestep: int) -> Tensor:
        """The clean images of (M, C, H, W) noised ones at one timestep, predicted; where and of what dtype ``x`` is."""
        model = self._known_model()
        batches = x.split(self.settings.batch_size)
        return torch.cat([model.predict(batch.to(model.weight), timestep)[0].to(x) for batch in batches])

    def _known_model(self) -> ProbeModel:
        if self.model is None:
            raise ValueError("the probe needs a pass that can ask its model, got one without; use run_pass")
        return self.model


def problem_of(model: ProbeModel, settings: PassSettings) -> Problem:
    """How the model is sampled and inverted under the settings of a pass."""
    s = settings
    return Problem(model.eps_model, model.schedule, s.num_steps, s.convention, s.clip, s.clip_inversion)


def run_pass(
    model: ProbeModel,
    settings: PassSettings,
    request: PassRequest = PassRequest(),
    advance: Advance | None = None,
) -> ProbePass:
    """Generate from the fixed noise and invert the samples, as far as ``request`` asks.

    With an initialised process group each process works on its share of the indices and all get the whole; every
    process must call this.

    Args:
        model: the model, in eval mode, on the device to work on.
        settings: what is generated and how.
        request: which parts of it are wanted.
        advance: told of the progress, ``advance(PASS, done, total)`` in network evaluations of this process.

    Raises:
        ValueError: settings that the model does not allow.
        PassFailedError: with several processes, what went wrong on any of them.
    """
    problem, method = problem_of(model, settings), settings.inversion
    sample, invert = sampler(problem, method), inverter(problem, method)
    from_image = request.images is not None
    sampling, inverting = method.evaluations(settings.num_steps, from_image=from_image)
    evaluations = sampling * (not from_image) + inverting * request.invert
    rank, world_size = _process()
    mine = torch.arange(settings.num_samples).tensor_split(world_size)[rank]
    batches = mine.split(settings.batch_size) if len(mine) else ()
    done, total = 0, len(batches) * evaluations

    def on_step(_: DDIMStep) -> None:
        nonlocal done
        done += 1
        if advance is not None:
            advance(PASS, done, total)

    parts = [_empty_rows(model, request, sampling)]
    with _failing_together():
        for indices in batches:
            rows = None if request.store is None else request.store.load(indices)
            if rows is None:
                x_T = seeded_noise(settings.noise_seed, indices, model.image_shape).to(model.weight)
                recorder = TrajectoryRecorder(sampling) if request.trajectory else None
                if request.images is not None:
                    state = State(request.images[indices].to(x_T))
                else:
                    state = sample(x_T, on_step if recorder is None else _both(recorder.on_step, on_step))
                rows = {"x_0": state.x.float().cpu()}
                if request.invert:
                    latent = invert(state, indices, on_step).x
                    rows["latent"] = latent.float().cpu()
                    if recorder is not None:
                        rows |= _distances(recorder, x_T, latent)
                if request.store is not None:
                    request.store.save(indices, rows)
            else:
                done += evaluations
            parts.append(rows)
    whole = _gather({name: torch.cat([rows[name] for rows in parts]) for name in parts[0]}, model, settings.num_samples)
    noise = seeded_noise(settings.noise_seed, range(settings.num_samples), model.image_shape)
    x_0, latents, trajectory = whole["x_0"], whole.get("latent"), _trajectory(whole, sampling)
    return ProbePass(model.step, settings, noise, x_0, latents, evaluations, request.paired, trajectory, model)


def is_survivable(error: Exception) -> bool:
    """Whether a training can go on after an error of a pass: what goes wrong in it must not end days of training."""
    if isinstance(error, StoppedBySignalError):
        return False
    # Several processes can only go on from what all of them know, and not where one of them died.
    return num_processes() == 1 or isinstance(error, PassFailedError)


def _process() -> tuple[int, int]:
    """Rank and number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@contextmanager
def _failing_together() -> Iterator[None]:
    """Let all processes raise what one of them raises; they would wait for its rows, until the group gives up."""
    _, world_size = _process()
    if world_size == 1:
        yield
        return
    failure = None
    try:
        yield
    except StoppedBySignalError:
        raise
    except Exception as error:
        failure = error
    words: list[str | None] = [None] * world_size
    torch.distributed.all_gather_object(words, None if failure is None else describe_failure(failure))
    failed = [f"on process {rank}: {reason}" for rank, reason in enumerate(words) if reason is not None]
    try:
        if failed:
            raise PassFailedError("; ".join(failed)) from failure
    finally:
        # It would refer to itself, and hold the memory of what failed.
        failure = None


def _empty_rows(model: ProbeModel, request: PassRequest, sampling_evaluations: int) -> dict[str, Tensor]:
    """What a process without samples has: the rows of a batch of none."""
    rows = {"x_0": torch.empty(0, *model.image_shape)}
    if request.invert:
        rows["latent"] = torch.empty(0, *model.image_shape)
    if request.trajectory:
        points = len(TrajectoryRecorder(sampling_evaluations).step_fraction)
        shapes = dict.fromkeys(_TRAJECTORY, (0, points)) | {"squared_latent": (0,)}
        rows |= {name: torch.empty(shape, dtype=torch.float64) for name, shape in shapes.items()}
    return rows


def _distances(recorder: TrajectoryRecorder, x_T: Tensor, latent: Tensor) -> dict[str, Tensor]:
    """The batch's rows; NaN where samples or latents are not finite, which the probes say and which ends nothing."""
    try:
        distances = recorder.distances(x_T, latent)
    except ValueError:
        points = len(recorder.step_fraction)
        shapes = dict.fromkeys(_TRAJECTORY, (len(x_T), points)) | {"squared_latent": (len(x_T),)}
        return {name: torch.full(shape, math.nan, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: getattr(distances, name) for name in _TRAJECTORY}


def _trajectory(whole: dict[str, Tensor], sampling_evaluations: int) -> TrajectoryDistances | None:
    if _TRAJECTORY[0] not in whole:
        return None
    distances = {name: whole[name] for name in _TRAJECTORY}
    return TrajectoryDistances(**distances, step_fraction=TrajectoryRecorder(sampling_evaluations).step_fraction)


def _both(first: OnStep, second: OnStep) -> OnStep:
    def on_step(step: DDIMStep) -> None:
        first(step)
        second(step)

    return on_step


def _gather(local: dict[str, Tensor], model: ProbeModel, num_samples: int) -> dict[str, Tensor]:
    """Rows of all processes in order; shards may differ by one row, so they travel padded."""
    _, world_size = _process()
    if world_size == 1:
        return local
    sizes = [len(part) for part in torch.arange(num_samples).tensor_split(world_size)]
    whole = {}
    for name, rows in local.items():
        padded = torch.zeros(max(sizes), *rows.shape[1:], dtype=rows.dtype, device=model.weight.device)
        padded[: len(rows)] = rows.to(padded.device)
        shards = [torch.empty_like(padded) for _ in range(world_size)]
        torch.distributed.all_gather(shards, padded)
        whole[name] = torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)]).cpu()
    return whole
