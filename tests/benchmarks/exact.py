"""An evaluation of the exact denoisers, beside the bare matrix products that it consists of and beside a network's.

The images are drawn from a Gaussian with the eigenvalues 100 / k^2, about those of small photographs, in a random
basis. How many of them have any weight depends on the noise: at the noisiest timesteps all have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probediff.commands.cpu import set_up_cpu
from probediff.denoisers import EpsModel, SmoothedEmpiricalDenoiser, UNet
from probediff.schedule import NoiseSchedule
from tests.benchmarks.contenders import NETWORKS
from tests.benchmarks.harness import Figure, paired, peak_gib, synchronized

SHAPE = (3, 32, 32)
SCHEDULE = NoiseSchedule.cosine(4000)
NOISY, CLEAR = 3900, 900
_CPU = torch.device("cpu")
_CHUNK = 4096


def draw_images(count: int, size: int) -> Tensor:
    """(count, 1, 1, size) images."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    scales = 10 / torch.arange(1, size + 1)
    images = torch.empty(count, size)
    for rows in images.split(_CHUNK):
        rows.copy_((torch.randn(rows.shape, generator=generator) * scales) @ basis)
    return images[:, None, None]


def noised(images: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
    """The images at a timestep, and it as often as there are images."""
    alpha_bar = float(SCHEDULE.alpha_bar[timestep])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return alpha_bar**0.5 * images + (1 - alpha_bar) ** 0.5 * noise, torch.full((len(images),), timestep)


def multiply(query: Tensor, points: Tensor) -> Tensor:
    """Both products of an evaluation and nothing else, in the same pieces."""
    total = torch.zeros_like(query)
    for chunk in points.split(_CHUNK):
        total += (query @ chunk.T) @ chunk
    return total


@torch.no_grad()
def evaluations(count: int, num: int, size: int, mirrored: bool) -> list[dict[str, Any]]:
    """Seconds of evaluations of ``num`` images with ``count`` training images of ``size`` values, in turns."""
    set_up_cpu()
    base = peak_gib()
    denoiser = SmoothedEmpiricalDenoiser(draw_images(count, size), 0.4, SCHEDULE, mirrored)
    images = (denoiser.points[:num] @ denoiser.eigenvectors.T + denoiser.mean)[:, None, None]
    questions = {name: noised(images, timestep) for name, timestep in (("noisy", NOISY), ("clear", CLEAR))}
    actions: dict[str, Any] = {
        name: (lambda asked=asked: denoiser.predict(*asked)) for name, asked in questions.items()
    }
    query, turns = questions["noisy"][0].flatten(1), (1, 2) if mirrored else (1,)
    for turn in turns:
        actions[f"bare {turn}"] = lambda turn=turn: [multiply(query, denoiser.points) for _ in range(turn)]
    seconds = paired(actions, _CPU, rounds=3)
    return [{"seconds": seconds, "peak_gib": peak_gib() - base}]


@torch.no_grad()
def network_seconds() -> float:
    """An image's evaluation by the published network of 52.5 M parameters."""
    set_up_cpu()
    sizes, batch = NETWORKS["32 px"], 16
    model = EpsModel(UNet(sizes.image_size, 3, 6, **sizes.arguments()), 4000).eval()
    x, timestep = torch.randn(batch, *SHAPE), torch.full((batch,), 2000)
    model(x, timestep)
    return min(synchronized(lambda: model(x, timestep), _CPU) for _ in range(3)) / batch


def measure(quick: bool) -> list[dict[str, Any]]:
    """Figures at the size of CIFAR-10."""
    from tests.benchmarks.harness import in_own_process

    count, num, size = (2000, 100, 768) if quick else (50_000, 1000, 3072)
    network = in_own_process(network_seconds) * num
    figures = []
    for mirrored in (False, True):
        (found,) = in_own_process(evaluations, count, num, size, mirrored)
        words = f"{num:,} images, M = {count:,}{' and as many mirror images' if mirrored else ''}, D = {size:,}"
        for level, note in (("noisy", "all training images have weight"), ("clear", "sigma 0.37; few have")):
            took = found["seconds"][level]
            of_all, of_half = found["seconds"][f"bare {1 + mirrored}"], found["seconds"]["bare 1"]
            ratios = {"bare products with all images": of_all / took, "52.5 M network": network / took}
            ratios |= {"bare products without the mirror images": of_half / took} if mirrored else {}
            case = f"exact denoiser, h = 0.4, one evaluation, {words}"
            figures.append(Figure("exact denoisers", case, took, "s", ratios, None, found["peak_gib"], note).__dict__)
    return figures
