"""Noises of images by a network: P2's iteration after several numbers of iterations, and DDIM latents.

P2 is *First-step inference in diffusion models learns image de-whitening*.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.ddim import ddim_invert, ddim_sample
from probediff.models.base import ProbeModel
from probediff.noise import derived_seed, seeded_noise
from probediff.runs.batches import BatchStore
from probediff.schedule import Convention
from probediff.whitening.noise_iteration import IterationSettings, iterate_noise


@dataclass(frozen=True, eq=False)
class Iterates:
    """What P2's iteration leads to for N images.

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


@dataclass(frozen=True)
class NetworkNoises:
    """A model on its device, and how it is asked for noises of images and images of noises.

    Attributes:
        model: the model, in eval mode; images are given to it in its own dtype.
        convention: of DDIM.
        tolerance: of P2's iteration; an image that is finished before a count keeps its noise.
        batch_size: images at a time.
        start_seed: of white noise that P2's iteration starts from instead of zero. The network was trained on inputs of
            variance 1, which zero is not; but what is left of the noise after n iterations is no function of the image.
        on_evaluations: called with the number of network evaluations (of one image each) that were just made.
    """

    model: ProbeModel
    convention: Convention = "openai"
    tolerance: float = 0.0
    batch_size: int = 64
    start_seed: int | None = None
    on_evaluations: Callable[[int], object] = lambda count: None

    def iterates(
        self, images: Tensor, timestep: int, counts: Sequence[int], store: BatchStore | None = None
    ) -> Iterates:
        """P2's iteration (eq. 7) on (N, C, H, W) images: the noises after each of several numbers of iterations.

        Args:
            images: in [-1, 1].
            timestep: of the iteration.
            counts: numbers of iterations.
            store: where finished batches are kept.

        Raises:
            ValueError: as `iterate_noise`.
        """
        batches = []
        for indices in torch.arange(len(images)).split(self.batch_size):
            rows = None if store is None else store.load(indices)
            if rows is None:
                rows = self._iterate(images[indices], indices, timestep, counts)
                if store is not None:
                    store.save(indices, rows)
            else:
                self.on_evaluations(len(indices) * max(counts))
            batches.append(rows)
        whole = {name: torch.cat([rows[name] for rows in batches]) for name in batches[0]}
        eps = {count: whole[f"eps_{count}"] for count in counts}
        return Iterates(eps, whole["residual"], whole["iterations"], whole["converged"])

    def _iterate(self, images: Tensor, indices: Tensor, timestep: int, counts: Sequence[int]) -> dict[str, Tensor]:
        eps: dict[int, Tensor] = {}

        def on_iteration(count: int, current: Tensor) -> None:
            if count in counts:
                eps[count] = current.float().cpu()
            self.on_evaluations(len(current))

        most, start = max(counts), None
        if self.start_seed is not None:
            start = seeded_noise(derived_seed(self.start_seed, "start"), indices, images.shape[1:])
        settings = IterationSettings(most, self.tolerance)
        x_0, schedule = images.to(self.model.weight), self.model.schedule
        end = iterate_noise(self.model.eps_model, schedule, x_0, timestep, settings, start, on_iteration)
        self.on_evaluations(len(images) * (most - len(end.residual)))
        # Copies, because files of tensors refuse several names of one memory.
        rows = {
            f"eps_{count}": eps[count] if count in eps else end.eps.to("cpu", torch.float32, copy=True)
            for count in counts
        }
        residual = torch.full((len(images), most), float("nan"), dtype=torch.float64)
        residual[:, : len(end.residual)] = end.residual.T.cpu()
        return rows | {"residual": residual, "iterations": end.iterations.cpu(), "converged": end.converged.cpu()}

    def latents(self, images: Tensor, num_steps: int) -> Tensor:
        """(N, C, H, W) latents of images by unclipped DDIM inversion, float32 on the CPU."""
        return self._walk(ddim_invert, images, num_steps, clip=False)

    def samples(self, noise: Tensor, num_steps: int) -> Tensor:
        """(N, C, H, W) images from noise by DDIM, clipped as the model's own sampler does; float32 on the CPU."""
        return self._walk(ddim_sample, noise, num_steps, self.model.clip)

    def _walk(self, walk: Callable[..., Tensor], x: Tensor, num_steps: int, clip: bool) -> Tensor:
        model, ends = self.model, []
        for batch in x.split(self.batch_size):
            start = batch.to(model.weight)
            end = walk(model.eps_model, model.schedule, start, num_steps, self.convention, clip=clip)
            ends.append(end.float().cpu())
            self.on_evaluations(len(batch) * num_steps)
        return torch.cat(ends)
