"""The whole whitening analysis of a model, and what its slopes say in words.

These are figures 2 to 5 and the table of P2 (*First-step inference in diffusion models learns image de-whitening*),
and slope and R² against the number of iterations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from probediff.pictures import grid, own_contrast, to_uint8
from probediff.runs.batches import BatchStore
from probediff.whitening.closed_form import GaussianNoises
from probediff.whitening.pairs import NetworkNoises
from probediff.whitening.relation import Relation, relate
from probediff.whitening.spectral import TRUSTED_SHARE, ComparedMap, Counts, along_eigenvectors
from probediff.whitening.transforms import TransformComparison, compare_transforms

_SLOPE_CHANGE = 0.05
_HYPOTHESES = {0.0: "a multiple of the image", -0.5: "ZCA whitening", -1.0: "the inverse covariance"}


@dataclass(frozen=True)
class Plan:
    """What is computed.

    Attributes:
        counts: numbers of iterations, ascending.
        timestep: of the iteration (P2: 0.98 T).
        shown_timesteps: of figure 3.
        num_steps: DDIM steps of the full map, one curve point each; the last one is for samples too.
        num_samples: noises of figure 2.
        num_shown: images in pictures.
        noise_seed: of figure 2's noises.
    """

    counts: Sequence[int]
    timestep: int
    shown_timesteps: Sequence[int]
    num_steps: Sequence[int]
    num_samples: int
    num_shown: int
    noise_seed: int

    def evaluations(self, num_images: int) -> int:
        """Network evaluations, each of one image."""
        most, shown = max(self.counts), min(self.num_shown, num_images)
        inverting, sampling = num_images * sum(self.num_steps), 2 * self.num_samples * self.num_steps[-1]
        return num_images * most + shown * len(self.shown_timesteps) * most + inverting + sampling


@dataclass(frozen=True, eq=False)
class ShownNoises:
    """Some images and their noises, to look at (figures 3 and 4).

    Attributes:
        images: (n, C, H, W).
        rows: one a timestep; with an error where the iteration diverges.
        of_timesteps: (n, C, H, W) noises of the timesteps where it does not.
        of_methods: (n, C, H, W) noises by the model, by ZCA whitening, by the Gaussian denoiser after as many
            iterations, and by the limit of its iteration.
    """

    images: Tensor
    rows: list[dict[str, Any]]
    of_timesteps: list[Tensor]
    of_methods: list[Tensor]

    def pictures(self) -> dict[str, Tensor]:
        """A row of images, and below it one row for each kind of noise, each noise at its own contrast."""
        return {
            name: grid(torch.cat([to_uint8(self.images), *map(own_contrast, noises)]), len(self.images))
            for name, noises in (("f3_fixed_points", self.of_timesteps), ("f4_zca", self.of_methods))
        }


@dataclass(frozen=True, eq=False)
class Findings:
    """The parts of the analysis.

    Attributes:
        eigenvalues: (D,) of the images' covariance.
        first_step: P2's iteration, one number of iterations each.
        shown: images and their noises.
        full_map: DDIM inversion, one number of steps each.
        transforms: the noises against whitening transforms.
        relation: samples against their noises.
        num_steps: DDIM steps of the samples.
    """

    eigenvalues: Tensor
    first_step: list[ComparedMap]
    shown: ShownNoises
    full_map: list[ComparedMap]
    transforms: TransformComparison
    relation: Relation
    num_steps: int

    def record(self) -> dict[str, Any]:
        """The numbers, for ``whitening.json``."""
        return {
            "first_step": [compared.record() for compared in self.first_step],
            "figure_3": self.shown.rows,
            "full_map": [compared.record() for compared in self.full_map],
            **self.transforms.record(),
            "relation": self.relation.record() | {"num_steps": self.num_steps},
        }

    def arrays(self) -> dict[str, Tensor]:
        """For ``whitening.safetensors``."""
        arrays = {"eigenvalues": self.eigenvalues}
        for compared in (*self.first_step, *self.full_map):
            arrays |= compared.arrays()
        return arrays | self.transforms.arrays() | self.relation.arrays()

    def pictures(self) -> dict[str, Tensor]:
        """(3, H, W) uint8 by name."""
        return self.shown.pictures() | self.transforms.pictures() | self.relation.pictures()


def analyse(
    network: NetworkNoises | None,
    gaussian: GaussianNoises,
    images: Tensor,
    plan: Plan,
    store: BatchStore | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Findings:
    """Everything that ``probediff whitening`` tells.

    Args:
        network: the model; None for the Gaussian denoiser alone.
        gaussian: the Gaussian denoiser of the same data; its statistics are those of the transforms.
        images: (N, C, H, W) whose noises are made.
        plan: what is computed.
        store: where finished batches of fixed points are kept.
        say: told what is being done.

    Raises:
        ValueError: noises that do not vary or are not finite.
    """
    model, most, whitening = network or gaussian, max(plan.counts), gaussian.whitening
    along_x = along_eigenvectors(images, whitening)

    def compare(counts: Counts, count: int, gain: Tensor, noises: Tensor | None, **progress: float) -> ComparedMap:
        along = along_x, None if noises is None else along_eigenvectors(noises, whitening)
        return ComparedMap.of(counts, count, along, gain, whitening, **progress)

    say("fixed points")
    if network is not None:
        iterates = network.iterates(images, plan.timestep, plan.counts, store)
    else:  # the Gaussian denoiser's curves need its gains only
        iterates = gaussian.iterates(images, plan.timestep, [most])
    say("slopes")
    first_step = []
    for count in plan.counts:
        noises = None if network is None else iterates.eps[count]
        gain = gaussian.iteration_gain(plan.timestep, count)
        first_step.append(compare("iterations", count, gain, noises, **iterates.progress(count)))
    shown = _show_noises(model, gaussian, images[: plan.num_shown], iterates.eps[most][: plan.num_shown], plan)
    say("full DDIM map")
    full_map = []
    for count in plan.num_steps:
        noises = None if network is None else network.latents(images, count)
        full_map.append(compare("num_steps", count, gaussian.inversion_gain(count), noises))
    say("whitening transforms")
    transforms = compare_transforms(images, iterates.eps[most], gaussian, plan.timestep, most)
    say("samples")
    sample = partial(model.samples, num_steps=plan.num_steps[-1])
    relation = relate(sample, tuple(images.shape[1:]), plan.num_samples, plan.noise_seed)
    return Findings(whitening.eigenvalues, first_step, shown, full_map, transforms, relation, plan.num_steps[-1])


def _show_noises(
    model: NetworkNoises | GaussianNoises, gaussian: GaussianNoises, images: Tensor, eps: Tensor, plan: Plan
) -> ShownNoises:
    most, rows, of_timesteps = max(plan.counts), list[dict[str, Any]](), []
    for timestep in plan.shown_timesteps:
        try:
            iterates = model.iterates(images, timestep, [most])
        except ValueError as error:
            rows.append({"timestep": timestep, "error": str(error)})
            continue
        of_timesteps.append(iterates.eps[most])
        rms = float(iterates.eps[most].square().mean().sqrt())
        rows.append({"timestep": timestep, "noise_rms": rms} | iterates.progress(most))
    closed = gaussian.iterates(images, plan.timestep, [most]).eps[most]
    of_methods = [eps, gaussian.whitening.whiten(images), closed, gaussian.limit(images, plan.timestep)]
    return ShownNoises(images, rows, of_timesteps, of_methods)


def slope_in_words(rows: list[dict[str, Any]], share: float) -> str:
    """What the slopes say about P2's claim."""
    last = rows[-1]
    slope, gaussian = last["model"]["slope"], last["gaussian"]["slope"]
    if slope is None:
        return "Too few directions have a positive gain for a slope: the noises do not follow the images."
    known = last["model"]["significant_share"]
    if known < TRUSTED_SHARE:
        return (
            f"After {last['iterations']} iterations at {share:g} T the noises follow the images in {known:.0%} of the "
            f"directions only (gain above 3 standard errors), so their slope of {slope:.2f} says nothing: noises that "
            f"have nothing to do with the images have about -1/2 too. Make the noises of more images."
        )
    nearest, name = min(_HYPOTHESES.items(), key=lambda hypothesis: abs(hypothesis[0] - slope))
    text = (
        f"After {last['iterations']} iterations at {share:g} T the gain falls as eigenvalue^{slope:.2f}: of 0 (a "
        f"multiple of the image), -1/2 (ZCA whitening) and -1 (the limit for Gaussian data) it is nearest to "
        f"{nearest:g}, {name}. ZCA whitening at its best scale explains {last['model']['zca_r2_scaled']:.0%} of the "
        f"noises' variance; as it is, its R² is {last['model']['zca_r2']:.2f}, for the noises have an rms of "
        f"{last['model']['noise_rms']:.3g} and not the 1 of N(0, I)."
    )
    first = rows[0]["model"]["slope"]
    if first is not None and len(rows) > 1 and rows[0]["model"]["significant_share"] >= TRUSTED_SHARE:
        text += (
            f" Between {rows[0]['iterations']} and {last['iterations']} iterations it goes from {first:.2f} to "
            f"{slope:.2f}, so it says as much about their number as about the model."
            if abs(first - slope) > _SLOPE_CHANGE
            else f" It is the same from {rows[0]['iterations']} iterations on, within {_SLOPE_CHANGE}."
        )
    if gaussian is not None:
        text += f" The Gaussian denoiser of the same data is at {gaussian:.2f} there."
    return text
