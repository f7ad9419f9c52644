"""The Gaussian with the mean and covariance of a run's training images: what second-order statistics explain."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probediff.data.base import ImageArray, ImageTensors, fingerprint
from probediff.denoisers import GaussianDenoiser
from probediff.denoisers.empirical import basis_bytes
from probediff.files.capacity import check_memory
from probediff.measures.covariance import Moments
from probediff.models.base import ProbeModel, conventions_of
from probediff.models.run import Diffusion, load_run_data, read_run_config
from probediff.schedule import NoiseSchedule, ScheduleName

_CHUNK_SIZE = 1024


def fit_gaussian(run: Path, num_images: int | None = None, trust: bool = False) -> ProbeModel:
    """The exact denoiser of a Gaussian with the moments of the run's training images, under the run's schedule.

    Where the run flips its images, each counts with its mirror image. Memory for D = C H W dimensions: some six
    matrices (D, D) of float64, that is 7 GB at 64 x 64 RGB; the images are read in chunks.

    Args:
        run: folder of the run.
        num_images: take so many images, spread evenly over the set; all by default.
        trust: import and run the class of the run's data, also if it is none of this package.

    Returns:
        The denoiser in float32; its step is 0.

    Raises:
        FileNotFoundError: no run there, or its data are gone.
        ValueError: ``num_images`` outside 2 .. the number of images, no memory for it, or a configuration that cannot
            be read.
    """
    images = RunImages.of(run, num_images, trust)
    return images.model_of(images.gaussian(), denoiser="gaussian")


@dataclass(frozen=True)
class RunImages:
    """The images that an exact denoiser of a run is fitted to.

    Attributes:
        run: its folder.
        array: all of the run, (N, C, H, W) uint8.
        indices: (M,) those that are taken.
        diffusion: schedule of the run, and whether it flips its images.
        whole: all images, where these are a part of them.
    """

    run: Path
    array: ImageArray
    indices: npt.NDArray[np.int64]
    diffusion: Diffusion
    whole: RunImages | None = None

    @classmethod
    def of(cls, run: Path, num_images: int | None, trust: bool, option: str = "num_images") -> RunImages:
        """Those of a run; arguments and errors as of ``fit_gaussian``, where ``option`` is what their number is."""
        diffusion = Diffusion.of(run, read_run_config(run))
        array = load_run_data(run, trust).images
        every = cls(run, array, np.arange(len(array), dtype=np.int64), diffusion)
        return every.part(len(array) if num_images is None else num_images, option)

    def part(self, count: int, option: str) -> RunImages:
        """So many of all images, spread evenly; raises ValueError for too few or many, of which ``option`` tells."""
        every, total = self.every(), len(self.array)
        if not 2 <= count <= total:
            raise ValueError(f"{option} must lie in 2..{total}, the training images of {self.run}, got {count}")
        indices = np.arange(count, dtype=np.int64) * total // count
        return every if count == total else replace(every, indices=indices, whole=every)

    @property
    def mirrored(self) -> bool:
        """Whether each counts with its mirror image."""
        return self.diffusion.random_flip

    @property
    def schedule(self) -> NoiseSchedule:
        """That of the run."""
        return self.diffusion.noise_schedule()

    def under(self, schedule: ScheduleName | None) -> RunImages:
        """The same under another schedule of as many timesteps; the run's own where none is named."""
        if schedule is None:
            return self
        whole = None if self.whole is None else self.whole.under(schedule)
        return replace(self, diffusion=replace(self.diffusion, schedule=schedule), whole=whole)

    def read(self) -> Tensor:
        """All that are taken, (M, C, H, W) float32 in [-1, 1]."""
        return ImageTensors(self.array).__getitems__(self.indices.tolist())

    def every(self) -> RunImages:
        """All images of the run."""
        return self if self.whole is None else self.whole

    @cached_property
    def digest(self) -> str:
        """What tells those that are taken from any others: 16 hexadecimal digits of a SHA-256.

        Of all images, as ``probediff.data.base.fingerprint``, and of every pixel of a part.
        """
        digest = hashlib.sha256(fingerprint(self.array)["sha256"].encode())
        if self.whole is not None:
            for chosen in _chunks(self.indices):
                digest.update(np.ascontiguousarray(self.array[chosen]).data)
        return digest.hexdigest()[:16]

    def check_statistics(self) -> None:
        """Raise ValueError where there is no memory for what an exact denoiser makes of mean and covariance."""
        size = math.prod(self.array.shape[1:])
        needed = basis_bytes(size, self.mirrored)
        check_memory("an exact denoiser", f"images of {size} values", needed, "take a run of smaller images")

    def statistics(self) -> Moments:
        """Their mean and covariance; they are read once, in chunks; errors as of ``check_statistics``."""
        self.check_statistics()
        return self._moments

    @cached_property
    def _moments(self) -> Moments:
        return Moments(*image_moments(self.array, self.indices, self.mirrored), len(self.indices))

    def gaussian(self) -> GaussianDenoiser:
        """The exact denoiser of the Gaussian with their mean and covariance, in float32."""
        estimate = self.statistics()
        return GaussianDenoiser(estimate.mean, estimate.covariance, self.schedule).float().eval()

    def model_of(self, eps_model: nn.Module, **conventions: Any) -> ProbeModel:
        """What is probed of a denoiser that was fitted to them; its step is 0."""
        _, channels, height, width = self.array.shape
        shape, told = (channels, height, width), conventions | {"fitted_to": len(self.indices)}
        conventions = conventions_of(eps_model, self.diffusion.schedule, self.schedule, shape, **told)
        return ProbeModel(eps_model, self.schedule, shape, 0, conventions)


def image_moments(images: ImageArray, indices: np.ndarray, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of chosen images in [-1, 1], float64, in one pass over chunks of them.

    With ``mirrored`` every image counts twice, once flipped left to right. The covariance has the divisor N - 1.
    """
    _, channels, height, width = images.shape
    dimensions = channels * height * width
    # Pixels are centred on mid-grey already, so that the moments about it lose no digits that matter in float64.
    total = torch.zeros(dimensions, dtype=torch.float64)
    products = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for chosen in _chunks(indices):
        rows = torch.from_numpy(np.ascontiguousarray(images[chosen])).flatten(1).double().div_(127.5).sub_(1)
        total += rows.sum(0)
        products.addmm_(rows.T, rows)
    if mirrored:
        mirror = torch.arange(dimensions).reshape(channels, height, width).flip(-1).flatten()
        total = (total + total[mirror]) / 2
        products = (products + products[mirror][:, mirror]) / 2
    count = len(indices)
    mean = total / count
    return mean, products.addr_(mean, mean, alpha=-count) / (count - 1)


def _chunks(indices: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(indices, range(_CHUNK_SIZE, len(indices), _CHUNK_SIZE))
