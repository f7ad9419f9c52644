"""The pass that all probes share: fixed noise -> samples -> latents, once per checkpoint, sharded over processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from probediff.ddim import DDIMStep, OnStep
from probediff.inversion import Problem, State, invert, sample
from probediff.measures import TrajectoryDistances, TrajectoryRecorder
from probediff.noise import seeded_noise
from probediff.probing.settings import PassSettings
from probediff.schedule import NoiseSchedule

Advance = Callable[[str, int, int], None]
#: What a progress display is told while the pass runs; other parts are the probes' names.
PASS = "pass"
_TRAJECTORY = ("squared_from_noise", "along_latent", "squared_latent")


class BatchStore(Protocol):
    """Keeps finished batches of a pass, so that one that was interrupted goes on where it was."""

    def load(self, indices: Tensor) -> dict[str, Tensor] | None:
        """The batch of the samples ``indices``, if it is there."""

    def save(self, indices: Tensor, made: dict[str, Tensor]) -> None:
        """Keep a batch."""


@dataclass(frozen=True)
class PassRequest:
    """What a pass makes.

    Attributes:
        invert: invert the samples.
        trajectory: measure the way from noise to sample against the latent (needs ``invert``).
        images: (N, C, H, W) images to invert instead of samples of the model.
        paired: whether row i of ``images`` was made from noise i.
        decode: codes -> pixels, for a latent diffusion model.
        store: where finished batches are kept.
    """

    invert: bool = True
    trajectory: bool = False
    images: Tensor | None = None
    paired: bool = True
    decode: Callable[[Tensor], Tensor] | None = None
    store: BatchStore | None = None


def run_pass(
    eps_model: nn.Module,
    schedule: NoiseSchedule,
    settings: PassSettings,
    image_shape: tuple[int, int, int],
    step: int,
    request: PassRequest = PassRequest(),
    advance: Advance | None = None,
) -> ProbePass:
    """Generate from the fixed noise and invert the samples, as far as ``request`` asks.

    With an initialised process group each process works on its share of the indices and all get the whole; every
    process must call this. ``advance(PASS, done, total)`` reports progress in network evaluations of this process.
    """
    work = _Work(eps_model, schedule, settings, image_shape, request)
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if grouped else (0, 1)
    mine = torch.arange(settings.num_samples).tensor_split(world_size)[rank]
    batches = mine.split(settings.batch_size) if len(mine) else ()
    total = len(batches) * work.evaluations_a_batch()
    done = 0

    def on_step(_: DDIMStep) -> None:
        nonlocal done
        done += 1
        if advance is not None:
            advance(PASS, done, total)

    parts = []
    for indices in batches:
        made = request.store.load(indices) if request.store is not None else None
        if made is None:
            made = work.batch(indices, on_step)
            if request.store is not None:
                request.store.save(indices, made)
        else:
            done += work.evaluations_a_batch()
        parts.append(made)
    made = _joined(parts, work.empty())
    if world_size > 1:
        made = {name: _gathered(rows, settings.num_samples, world_size, work.device) for name, rows in made.items()}
    return work.finished(step, made)


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
        sample: (M, C, H, W) noises or latents -> samples of the same model with the same settings.
        decode: (M, C, H, W) codes -> pixels, for a latent diffusion model.
        eps: the model: (M, C, H, W) inputs and (M,) timesteps -> predicted noise, on the device of the inputs.
        schedule: the model's schedule.
    """

    step: int
    settings: PassSettings
    noise: Tensor
    x_0: Tensor
    latent: Tensor | None
    evaluations: int = 0
    paired: bool = True
    trajectory: TrajectoryDistances | None = None
    sample: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    eps: Callable[[Tensor, Tensor], Tensor] | None = None
    schedule: NoiseSchedule | None = None

    def pixels(self, x_0: Tensor | None = None) -> Tensor:
        """``x_0`` (the pass's own by default) as images for eyes and feature networks."""
        x_0 = self.x_0 if x_0 is None else x_0
        return x_0 if self.decode is None else self.decode(x_0)


@dataclass(frozen=True)
class _Work:
    """One process's share of a pass."""

    eps_model: nn.Module
    schedule: NoiseSchedule
    settings: PassSettings
    image_shape: tuple[int, int, int]
    request: PassRequest

    def _weight(self) -> Tensor:
        return next(chain(self.eps_model.parameters(), self.eps_model.buffers()))

    @property
    def device(self) -> torch.device:
        return self._weight().device

    @property
    def problem(self) -> Problem:
        s = self.settings
        return Problem(self.eps_model, self.schedule, s.num_steps, s.convention, s.clip, s.clip_inversion)

    def evaluations_a_batch(self) -> int:
        given = self.request.images is not None
        sampling, inverting = self.settings.inversion.evaluations(self.settings.num_steps, from_image=given)
        return sampling * (not given) + inverting * self.request.invert

    def _noise(self, indices: Sequence[int] | Tensor) -> Tensor:
        return seeded_noise(self.settings.noise_seed, indices, self.image_shape)

    def batch(self, indices: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        """Samples, latents and distances of the samples ``indices``; rows in their order."""
        problem, method = self.problem, self.settings.inversion
        x_T = self._noise(indices).to(self._weight())
        recorder = None
        if self.request.images is not None:
            state = State(self.request.images[indices].to(x_T))
        else:
            watch = on_step
            if self.request.trajectory:
                recorder = self._recorder()
                watch = _both(recorder.on_step, on_step)
            state = sample(problem, method, x_T, watch)
        made = {"x_0": state.x.float().cpu()}
        if self.request.invert:
            latent = invert(problem, method, state, indices, on_step).x
            made["latent"] = latent.float().cpu()
            if recorder is not None:
                distances = recorder.distances(x_T, latent)
                made |= {name: getattr(distances, name) for name in _TRAJECTORY}
        return made

    def _recorder(self) -> TrajectoryRecorder:
        return TrajectoryRecorder(self.settings.inversion.evaluations(self.settings.num_steps)[0])

    def empty(self) -> dict[str, Tensor]:
        """What a process without samples has: the rows of a batch of none."""
        rows = {"x_0": torch.empty(0, *self.image_shape)}
        if self.request.invert:
            rows["latent"] = torch.empty(0, *self.image_shape)
        if self.request.trajectory:
            points = len(self._recorder().step_fraction)
            shapes = dict.fromkeys(_TRAJECTORY, (0, points)) | {"squared_latent": (0,)}
            rows |= {name: torch.empty(shape, dtype=torch.float64) for name, shape in shapes.items()}
        return rows

    def finished(self, step: int, made: dict[str, Tensor]) -> ProbePass:
        """The pass, from the rows of all batches."""
        trajectory = None
        if self.request.trajectory:
            rows = {name: made[name] for name in _TRAJECTORY}
            trajectory = TrajectoryDistances(**rows, step_fraction=self._recorder().step_fraction)
        return ProbePass(
            step,
            self.settings,
            self._noise(range(self.settings.num_samples)),
            made["x_0"],
            made.get("latent"),
            self.evaluations_a_batch(),
            self.request.paired,
            trajectory,
            self.sample,
            self.request.decode,
            self.eps,
            self.schedule,
        )

    def eps(self, x: Tensor, timestep: Tensor) -> Tensor:
        """What the model predicts for (M, C, H, W) inputs at (M,) timesteps; where and of what dtype ``x`` is."""
        with torch.no_grad():
            parts = zip(x.split(self.settings.batch_size), timestep.split(self.settings.batch_size), strict=True)
            return torch.cat([self.eps_model(a.to(self._weight()), t.to(self.device)).to(x) for a, t in parts])

    def sample(self, noise: Tensor) -> Tensor:
        """Samples of (M, C, H, W) noises or latents, float32 on the CPU."""
        with torch.no_grad():
            parts = [
                sample(self.problem, self.settings.inversion, x_T.to(self._weight()), None).x.float().cpu()
                for x_T in noise.split(self.settings.batch_size)
            ]
        return torch.cat(parts)


def _both(first: OnStep, second: OnStep) -> OnStep:
    def on_step(step: DDIMStep) -> None:
        first(step)
        second(step)

    return on_step


def _joined(parts: list[dict[str, Tensor]], empty: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([none, *(part[name] for part in parts)]) for name, none in empty.items()}


def _gathered(local: Tensor, num_rows: int, world_size: int, device: torch.device) -> Tensor:
    """Rows of all processes in order; shards may differ by one row, so they travel padded."""
    padded = torch.zeros(math.ceil(num_rows / world_size), *local.shape[1:], dtype=local.dtype, device=device)
    padded[: len(local)] = local.to(device)
    shards = [torch.empty_like(padded) for _ in range(world_size)]
    torch.distributed.all_gather(shards, padded)
    sizes = [len(part) for part in torch.arange(num_rows).tensor_split(world_size)]
    return torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)]).cpu()
