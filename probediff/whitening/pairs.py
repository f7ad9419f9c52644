"""Noises of images by a network: P2's fixed point after several numbers of iterations, and DDIM latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probediff.ddim import EpsFunction, ddim_invert, ddim_sample
from probediff.noise import derived_seed, seeded_noise
from probediff.schedule import Convention, NoiseSchedule
from probediff.whitening.noise_iteration import IterationSettings, iterate_noise

#: Called with the number of network evaluations (of one image each) that were just made.
Advance = Callable[[int], None]


class BatchStore(Protocol):
    """Keeps finished batches, so that long work which was interrupted goes on where it was."""

    def load(self, indices: Tensor) -> dict[str, Tensor] | None:
        """The batch of the images ``indices``, if it is there."""

    def save(self, indices: Tensor, made: dict[str, Tensor]) -> None:
        """Keep a batch."""


@dataclass(frozen=True, eq=False)
class Iterates:
    """What P2's iteration made of N images.

    Attributes:
        eps: (N, C, H, W) on the CPU, by number of iterations.
        residual: (N, iterations) float64, as `NoiseIteration.residual`; None for a closed form.
        iterations: (N,) network evaluations of each image; None for a closed form.
        converged: (N,) whether the last change was within the tolerance; None for a closed form.
    """

    eps: dict[int, Tensor]
    residual: Tensor | None = None
    iterations: Tensor | None = None
    converged: Tensor | None = None

    def progress(self, count: int) -> dict[str, float]:
        """Mean over the images of the last change up to iteration ``count``, and the share that had converged then."""
        if self.residual is None or self.iterations is None or self.converged is None:
            return {}
        last = self.iterations.clamp(max=count) - 1
        done = self.converged & (self.iterations <= count)
        return {
            "residual_rms": float(self.residual.gather(1, last[:, None]).mean()),
            "converged_share": float(done.double().mean()),
        }


class NoiseMaker(Protocol):
    """A denoiser that tells noises of images and images of noises."""

    def iterates(
        self, images: Tensor, timestep: int, counts: Sequence[int], store: BatchStore | None = None
    ) -> Iterates:
        """P2's iteration (eq. 7) on (N, C, H, W) images: the noises after each of ``counts`` iterations."""

    def latents(self, images: Tensor, num_steps: int) -> Tensor:
        """(N, C, H, W) latents of images by unclipped DDIM inversion, the inverse of the full map."""

    def samples(self, noise: Tensor, num_steps: int) -> Tensor:
        """(N, C, H, W) images from noise by DDIM."""


@dataclass(frozen=True)
class NetworkNoises:
    """A network (or any denoiser) on its device, and how it is asked.

    Attributes:
        eps_model: the model, in eval mode.
        schedule: its schedule.
        device: where it is.
        dtype: of the images that it is given.
        convention: of DDIM.
        clip: whether its sampler clips predicted images.
        tolerance: of P2's iteration; an image that is finished before a count keeps its noise.
        batch_size: images at a time.
        start_seed: of white noise that P2's iteration starts from instead of zero. The network was trained on inputs of
            variance 1, which zero is not; but what is left of the noise after n iterations is no function of the image.
        advance: told of the evaluations.
    """

    eps_model: EpsFunction
    schedule: NoiseSchedule
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (frozen)
    dtype: torch.dtype = torch.float32
    convention: Convention = "openai"
    clip: bool = True
    tolerance: float = 0.0
    batch_size: int = 64
    start_seed: int | None = None
    advance: Advance = lambda evaluations: None

    def iterates(
        self, images: Tensor, timestep: int, counts: Sequence[int], store: BatchStore | None = None
    ) -> Iterates:
        """As `NoiseMaker.iterates`; raises ValueError as `iterate_noise`."""
        parts = []
        for rows in torch.arange(len(images)).split(self.batch_size):
            made = store.load(rows) if store is not None else None
            if made is not None:
                self.advance(len(rows) * max(counts))
            else:
                made = self._iterate(images[rows], rows, timestep, counts)
                if store is not None:
                    store.save(rows, made)
            parts.append(made)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        eps = {count: joined[f"eps_{count}"] for count in counts}
        return Iterates(eps, joined["residual"], joined["iterations"], joined["converged"])

    def _start(self, rows: Tensor, shape: Sequence[int]) -> Tensor | None:
        return None if self.start_seed is None else seeded_noise(derived_seed(self.start_seed, "start"), rows, shape)

    def _iterate(self, images: Tensor, rows: Tensor, timestep: int, counts: Sequence[int]) -> dict[str, Tensor]:
        kept: dict[int, Tensor] = {}

        def on_iteration(count: int, eps: Tensor) -> None:
            if count in counts:
                kept[count] = eps.float().cpu()
            self.advance(len(eps))

        most, x_0 = max(counts), images.to(self.device, self.dtype)
        settings = IterationSettings(most, self.tolerance)
        start = self._start(rows, images.shape[1:])
        found = iterate_noise(self.eps_model, self.schedule, x_0, timestep, settings, start, on_iteration)
        self.advance(len(images) * (most - len(found.residual)))
        made = {f"eps_{count}": kept.get(count, found.eps.float().cpu()) for count in counts}
        residual = torch.full((len(images), most), float("nan"), dtype=torch.float64)
        residual[:, : len(found.residual)] = found.residual.T.cpu()
        return made | {"residual": residual, "iterations": found.iterations.cpu(), "converged": found.converged.cpu()}

    @torch.no_grad()
    def latents(self, images: Tensor, num_steps: int) -> Tensor:
        """As `NoiseMaker.latents`, float32 on the CPU."""
        parts = []
        for batch in images.split(self.batch_size):
            x_0 = batch.to(self.device, self.dtype)
            parts.append(ddim_invert(self.eps_model, self.schedule, x_0, num_steps, self.convention, clip=False))
            self.advance(len(batch) * num_steps)
        return torch.cat([part.float().cpu() for part in parts])

    @torch.no_grad()
    def samples(self, noise: Tensor, num_steps: int) -> Tensor:
        """As `NoiseMaker.samples`, clipped as the model's own sampler does; float32 on the CPU."""
        parts = []
        for batch in noise.split(self.batch_size):
            x_T = batch.to(self.device, self.dtype)
            parts.append(ddim_sample(self.eps_model, self.schedule, x_T, num_steps, self.convention, clip=self.clip))
            self.advance(len(batch) * num_steps)
        return torch.cat([part.float().cpu() for part in parts])
