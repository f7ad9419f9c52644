"""The Gaussian with the mean and covariance of a run's training images: what second-order statistics explain."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probediff.data.base import ImageArray
from probediff.denoisers import GaussianDenoiser
from probediff.models.base import ProbeModel, conventions_of
from probediff.models.run import Diffusion, load_run_data, read_run_config

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
        ValueError: ``num_images`` outside 2 .. the number of images, or a configuration that cannot be read.
    """
    diffusion = Diffusion.of(run, read_run_config(run))
    data = load_run_data(run, trust)
    total = len(data.images)
    count = total if num_images is None else num_images
    if not 2 <= count <= total:
        raise ValueError(f"num_images must lie in 2..{total}, the training images of {run}, got {count}")
    indices = np.arange(count, dtype=np.int64) * total // count
    mean, covariance = image_moments(data.images, indices, mirrored=diffusion.random_flip)
    schedule = diffusion.noise_schedule()
    denoiser = GaussianDenoiser(mean, covariance, schedule).float().eval()
    shape = (data.channels, data.image_size, data.image_size)
    conventions = conventions_of(denoiser, diffusion.schedule, schedule, shape, denoiser="gaussian", fitted_to=count)
    return ProbeModel(denoiser, schedule, shape, 0, conventions)


def image_moments(images: ImageArray, indices: np.ndarray, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of chosen images in [-1, 1], float64, in one pass over chunks of them.

    With ``mirrored`` every image counts twice, once flipped left to right. The covariance has the divisor N - 1.
    """
    _, channels, height, width = images.shape
    dimensions = channels * height * width
    # Pixels are centred on mid-grey already, so that the moments about it lose no digits that matter in float64.
    total = torch.zeros(dimensions, dtype=torch.float64)
    products = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for chosen in np.split(indices, range(_CHUNK_SIZE, len(indices), _CHUNK_SIZE)):
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
