"""Algorithm 1 of P2 as it is printed: one chain, one proposal after the other, one loss function of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def printed_loss(loss: str, x: Tensor, whitening: Tensor, dewhitening: Tensor) -> Callable[[Tensor], float]:
    """P2's losses of a noise z, for an image x (D,) and the matrices W and W^-1 of ZCA: nothing is centred."""
    residual: dict[str, Callable[[Tensor], Tensor]] = {
        "baseline": lambda z: z - x,
        "forward": lambda z: dewhitening @ z - x,
        "backward": lambda z: z - whitening @ x,
    }
    return lambda z: float(residual[loss](z).square().sum())


@dataclass
class Annealed:
    noise: Tensor
    loss: float
    initial_loss: float
    accept_rate: float
    current: Tensor


def anneal(
    loss: Callable[[Tensor], float],
    draw: Callable[[], Tensor],
    uniform: Callable[[], float],
    num_iterations: int,
    initial_temperature: float,
    final_temperature: float,
    step_size: float,
) -> Annealed:
    """`draw` gives standard normal noise, the first of it z_init; `uniform` is asked at every proposal."""
    z_cur = draw()
    loss_cur = initial_loss = loss(z_cur)
    z_best, loss_best, accepted = z_cur, loss_cur, 0
    for k in range(1, num_iterations + 1):
        temperature = initial_temperature + (final_temperature - initial_temperature) * k / num_iterations
        eps = draw()
        z_new = math.sin(math.pi / 2 * step_size) * z_cur + math.cos(math.pi / 2 * step_size) * eps
        loss_new = loss(z_new)
        random = uniform()
        if loss_new < loss_cur or random < math.exp(-(loss_new - loss_cur) / temperature):
            z_cur, loss_cur = z_new, loss_new
            accepted += 1
        if loss_new < loss_best:
            z_best, loss_best = z_new, loss_new
    return Annealed(z_best, loss_best, initial_loss, accepted / num_iterations, z_cur)
