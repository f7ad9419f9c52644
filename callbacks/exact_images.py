"""Noised real images, and what the exact denoisers make of them: the same at every event, so evaluated once a run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.denoisers import SmoothedEmpiricalDenoiser
from probediff.display.progress import progress_bar
from probediff.measures import isotropic_denoised
from probediff.measures.denoiser_structure import LevelImages
from probediff.noise import seeded_noise
from probediff.probing.probe import TrainingImages
from probediff.schedule import NoiseSchedule

#: Bandwidths of the exact denoisers, from the training set to its Gaussian.
BANDWIDTHS = (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
#: A timestep stands for a noise level that it is within this factor of.
TOLERANCE = 1.1
_BATCH = 1024


@dataclass(frozen=True)
class Level:
    """A noise level sigma = sqrt((1 - alpha_bar) / alpha_bar).

    Attributes:
        asked: that was asked for.
        sigma: that of the timestep.
        timestep: the nearest one of the schedule.
        alpha_bar: of the timestep.
    """

    asked: float
    sigma: float
    timestep: int
    alpha_bar: float


def sigmas_of(schedule: NoiseSchedule) -> Tensor:
    """(T,) noise levels of the timesteps; infinite where nothing is left of the image."""
    return ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()


def find_levels(schedule: NoiseSchedule, sigmas: list[float]) -> list[Level]:
    """The timesteps nearest to noise levels; levels that are off by more than a factor of 1.1 are left out."""
    there, levels = sigmas_of(schedule), []
    for asked in sigmas:
        timestep = int((there.log() - math.log(asked)).abs().argmin())
        level = Level(asked, float(there[timestep]), timestep, float(schedule.alpha_bar[timestep]))
        if 1 / TOLERANCE <= level.sigma / asked <= TOLERANCE:
            levels.append(level)
    return levels


@dataclass(frozen=True, eq=False)
class ExactImages:
    """Images of up to two splits and, by noise level, what the exact denoisers make of them.

    Attributes:
        schedule: the noise schedule.
        noise_seed: of the noises.
        levels: the noise levels.
        splits: (n, C, H, W) real images: those behind the exact denoisers first, then held-out ones, if any.
        noise: (n, C, H, W); image i of either split has noise i.
        members: for each split and level (K, n, D) denoised images, float32 on the CPU.
        mean: (D,) mean of the images behind the exact denoisers.
        variance: mean over D of their variance.
        num_training_images: how many these are.
    """

    schedule: NoiseSchedule
    noise_seed: int
    levels: list[Level]
    splits: list[Tensor]
    noise: Tensor
    members: list[list[Tensor]]
    mean: Tensor
    variance: float
    num_training_images: int

    @classmethod
    def evaluate(
        cls,
        images: Tensor,
        training: TrainingImages,
        num_images: int,
        model: tuple[NoiseSchedule, list[Level], torch.device],
        noise_seed: int,
    ) -> "ExactImages":
        """Ask the exact denoisers.

        Args:
            images: (M, C, H, W), all images behind them, on the CPU.
            training: whether these count with their mirror images, and held-out images.
            num_images: of each split.
            model: schedule and levels of the model beside which they stand, and its device, where they are evaluated.
            noise_seed: of the noises.

        Raises:
            ValueError: images that are all alike.
        """
        if bool((images == images[:1]).all()):
            raise ValueError(f"denoiser_structure needs images that differ, got {len(images)} equal ones; give others")
        schedule, levels, device = model
        chosen = torch.linspace(0, len(images) - 1, min(num_images, len(images)), dtype=torch.float64).round().long()
        held_out = training.held_out(num_images)
        splits = [images[chosen], *([] if held_out is None else [held_out])]
        noise = seeded_noise(noise_seed, range(max(map(len, splits))), tuple(images.shape[1:]))
        family = SmoothedEmpiricalDenoiser(images.to(device), 0.0, schedule, bool(training.mirrored))
        # All levels at once, for products of large matrices.
        x_t = torch.cat([noised(split, noise, level) for split in splits for level in levels])
        timestep = torch.cat([torch.full((len(split),), level.timestep) for split in splits for level in levels])
        of_member = []
        for bandwidth in progress_bar(BANDWIDTHS, desc="exact denoisers", leave=False):
            denoiser = family.with_bandwidth(bandwidth)
            batches = zip(x_t.to(device).split(_BATCH), timestep.to(device).split(_BATCH), strict=True)
            of_member.append(torch.cat([denoiser.predict(*batch)[0].flatten(1).float().cpu() for batch in batches]))
        sizes = [len(split) for split in splits for _ in levels]
        parts = list(torch.stack(of_member).split(sizes, dim=1))
        members = [parts[k : k + len(levels)] for k in range(0, len(parts), len(levels))]
        mean, variance = family.mean.double().cpu(), float(family.eigenvalues.double().mean())
        return cls(schedule, noise_seed, levels, splits, noise, members, mean, variance, len(images))

    def is_of(self, schedule: NoiseSchedule, noise_seed: int) -> bool:
        """Whether they would be the same for this schedule and seed."""
        return self.noise_seed == noise_seed and torch.equal(self.schedule.alpha_bar, schedule.alpha_bar)

    def beside(self, denoise: Callable[[Tensor, int], Tensor], split: int, index: int) -> LevelImages:
        """The images of one split and level beside what a network makes of them.

        Args:
            denoise: x_t (n, C, H, W) and timestep -> images.
            split: which one.
            index: of the level.
        """
        level, truth = self.levels[index], self.splits[split]
        x_t = noised(truth, self.noise, level)
        rows = x_t.flatten(1).double() / math.sqrt(level.alpha_bar)
        null = isotropic_denoised(rows, level.sigma, self.mean, self.variance)
        # Converted once, and not in every measure.
        network = denoise(x_t, level.timestep).flatten(1).double()
        return LevelImages(truth.flatten(1).double(), rows, null, network, self.members[split][index].double())


def noised(images: Tensor, noise: Tensor, level: Level) -> Tensor:
    """x_t (n, C, H, W) float32 of the images and the first n noises."""
    return math.sqrt(level.alpha_bar) * images + math.sqrt(1 - level.alpha_bar) * noise[: len(images)]
