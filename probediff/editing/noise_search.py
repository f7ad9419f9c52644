"""Noise that resembles an image: simulated annealing (P2, algorithm 1), many images and chains at once.

The forward loss |W^-1 z - x|^2 and the backward loss |z - W x|^2 of ZCA whitening are diagonal in the eigenbasis of the
covariance, and white noise stays white under that rotation. So the whole search runs there: a proposal costs O(D)
instead of a D x D product, with exactly the same distribution of results. Images are centred on the mean of the
whitening statistics, as whitening is defined; the baseline loss |z - x|^2 compares with the image as it is.

Proposals sin(pi/2 a) z + cos(pi/2 a) eps leave N(0, I) unchanged, and a proposal is taken with probability
exp(-(L' - L) / T). At a fixed temperature such a chain therefore settles at the density N(z; 0, I) exp(-L(z) / T): with
the gain g of an eigen-direction (its standard deviation, or 1) and the target t a normal law of variance
1 / (1 + 2 g^2 / T) around 2 g t / T times that. So the temperature alone decides between the image and noise: the
lower it is, the nearer the target and the further from N(0, I). P2 gives no temperatures;
`probediff.measures.in_distribution` shows what they did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from probediff.measures.whitening import Whitening
from probediff.noise import derived_seed

SearchLoss = Literal["baseline", "forward", "backward"]
OnProgress = Callable[[int, int, Tensor], None]

# Proposals drawn at once; a part of the random stream, so that another number gives other noises.
_BLOCK = 8
# Chains walk in groups whose state fits a processor's cache, or fills an accelerator.
_GROUP_VALUES = {"cpu": 1 << 17}
_GROUP_VALUES_ELSEWHERE = 1 << 24
_CURVE_POINTS = 200


@dataclass(frozen=True)
class NoiseSearchSettings:
    """What is minimised, and how it is cooled.

    Attributes:
        loss: "forward" (P2's choice), "backward" or "baseline"; a sum over all values.
        num_iterations: N, proposals of each chain.
        initial_temperature: In units of the loss, 0 or more; it falls linearly.
        final_temperature: Reached at the last proposal.
        step_size: a in [0, 1): 0 proposes independent noise, near 1 small steps. Constant, as in P2.
        num_chains: Noises to find for each image.
        seed: Of all randomness.
    """

    loss: SearchLoss = "forward"
    num_iterations: int = 10_000
    initial_temperature: float = 10.0
    final_temperature: float = 1.0
    step_size: float = 0.98
    num_chains: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in get_args(SearchLoss):
            raise ValueError(f"loss must be one of {', '.join(get_args(SearchLoss))}, got {self.loss!r}")
        for name, count in (("num_iterations", self.num_iterations), ("num_chains", self.num_chains)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
        for name, value in (
            ("initial_temperature", self.initial_temperature),
            ("final_temperature", self.final_temperature),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, got {value}")
        if not 0 <= self.step_size < 1:
            raise ValueError(f"step_size must be in [0, 1), got {self.step_size}; nothing moves at 1, 0.98 is usual")


@dataclass(frozen=True, eq=False)
class NoiseSearch:
    """What `search_noise` found for B images with K chains each.

    Attributes:
        noise: (B, K, C, H, W) float32, the best noise of each chain.
        loss: (B, K) float64, its loss.
        initial_loss: (B, K) float64, that of the chain's first, random noise.
        accept_rate: (B, K) float64, share of the proposals that were taken.
        curve_iterations: (P,) int64, the iterations of the loss curve, at most about 200.
        curve: (P, B, K) float64, the loss of the chain's current noise after each of them.
    """

    noise: Tensor
    loss: Tensor
    initial_loss: Tensor
    accept_rate: Tensor
    curve_iterations: Tensor
    curve: Tensor


@dataclass
class _Found:
    """One group of chains: best noise (n, D) and its loss, first loss, acceptances (n,), curve (P, n)."""

    noise: Tensor
    loss: Tensor
    initial_loss: Tensor
    accepted: Tensor
    curve: Tensor


@torch.no_grad()
def search_noise(
    x_0: Tensor,
    whitening: Whitening,
    settings: NoiseSearchSettings | None = None,
    indices: Sequence[int] | None = None,
    on_progress: OnProgress | None = None,
) -> NoiseSearch:
    """Find noises that resemble images under P2's loss (algorithm 1).

    Args:
        x_0: (B, C, H, W) images in [-1, 1], or codes of a latent diffusion model.
        whitening: Statistics of such images.
        settings: By default `NoiseSearchSettings()`.
        indices: B numbers of the images, by default 0..B-1. A chain depends on the seed, the number of its image and
            its own only, not on what else is searched.
        on_progress: Called now and then with the proposals made, those to make, and the current losses (n,) of the
            group of chains at work.

    Raises:
        TypeError: The images are no floating-point tensor.
        ValueError: Images of another size than the statistics', indices of another number, or values not finite.
    """
    settings = settings or NoiseSearchSettings()
    gain, targets = _diagonal_loss(x_0, whitening, settings.loss)
    numbers = list(range(len(x_0))) if indices is None else list(indices)
    if len(numbers) != len(x_0):
        raise ValueError(f"indices must hold one number for each of the {len(x_0)} images, got {len(numbers)}")
    chains = [(number, chain) for number in numbers for chain in range(settings.num_chains)]
    targets = targets.repeat_interleave(settings.num_chains, dim=0)
    size = max(1, _GROUP_VALUES.get(x_0.device.type, _GROUP_VALUES_ELSEWHERE) // targets.shape[1])
    found = []
    for start in range(0, len(chains), size):
        report = _group_report(on_progress, start, len(chains), settings.num_iterations)
        group = slice(start, start + size)
        found.append(_anneal(gain, targets[group], _Draws(chains[group], settings.seed, targets), settings, report))
    return _assembled(found, x_0, whitening, settings)


def _diagonal_loss(x_0: Tensor, whitening: Whitening, loss: SearchLoss) -> tuple[Tensor, Tensor]:
    """Gain (D,) and targets (B, D), float32, so that the loss is sum (gain z - target)^2 in the search's own basis."""
    rows = whitening.checked_rows("x_0", x_0)
    if loss == "baseline":
        return torch.ones_like(rows[0]).float(), rows.float()
    rotated, std = (rows - whitening.mean) @ whitening.eigenvectors, whitening.eigenvalues.sqrt()
    if loss == "forward":
        return std.float(), rotated.float()
    return torch.ones_like(std).float(), (rotated / std).float()


def _group_report(
    on_progress: OnProgress | None, start: int, num_chains: int, num_iterations: int
) -> Callable[[int, Tensor], None]:
    def report(iteration: int, losses: Tensor) -> None:
        if on_progress is not None:
            done = start * num_iterations + iteration * len(losses)
            on_progress(done, num_chains * num_iterations, losses)

    return report


class _Draws:
    """The random numbers of some chains, each from generators of its own."""

    def __init__(self, chains: Sequence[tuple[int, int]], seed: int, like: Tensor) -> None:
        device = like.device
        # Drawing is most of the work, and torch draws in one thread.
        self._num_threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._num_threads)
        self._proposals, self._thresholds = (
            [torch.Generator(device).manual_seed(derived_seed(seed, *chain, purpose)) for chain in chains]
            for purpose in ("noise search proposals", "noise search thresholds")
        )
        self._eps = torch.empty(len(chains), _BLOCK, like.shape[1], device=device)
        self._exponential = torch.empty(len(chains), _BLOCK, dtype=torch.float64, device=device)

    def start(self) -> Tensor:
        """(n, D) the first noises."""
        return self.block()[0][:, 0].clone()

    def block(self) -> tuple[Tensor, Tensor]:
        """(n, BLOCK, D) standard normals, overwritten by the next call, and (n, BLOCK) standard exponentials."""
        count = self._num_threads
        list(self._pool.map(self._draw, (range(first, len(self._eps), count) for first in range(count))))
        return self._eps, -self._exponential.log()

    def _draw(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._eps[row].normal_(generator=self._proposals[row])
            self._exponential[row].uniform_(generator=self._thresholds[row])


def _anneal(
    gain: Tensor,
    targets: Tensor,
    draws: _Draws,
    settings: NoiseSearchSettings,
    report: Callable[[int, Tensor], None],
) -> _Found:
    """Algorithm 1 for a group of chains. exp(-d / T) > u is asked as d < -T log u, which also holds at T = 0."""
    keep, add = math.sin(math.pi / 2 * settings.step_size), math.cos(math.pi / 2 * settings.step_size)
    z = draws.start()
    proposal, residual = torch.empty_like(z), torch.empty_like(z)
    loss = _losses(z, gain, targets, residual)
    state = _Found(z.clone(), loss.clone(), loss, torch.zeros_like(loss), loss.new_zeros(0, len(loss)))
    curve = []
    for iteration in range(1, settings.num_iterations + 1):
        column = (iteration - 1) % _BLOCK
        if column == 0:
            eps, exponential = draws.block()
        temperature = _temperature(settings, iteration)
        torch.mul(z, keep, out=proposal).add_(eps[:, column], alpha=add)
        new = _losses(proposal, gain, targets, residual)
        taken = new - loss < temperature * exponential[:, column]
        better = new < state.loss
        _replace(z, proposal, taken)
        _replace(state.noise, proposal, better)
        loss = torch.where(taken, new, loss)
        state.loss = torch.where(better, new, state.loss)
        state.accepted += taken
        if _on_curve(iteration, settings.num_iterations):
            curve.append(loss)
            report(iteration, loss)
    state.curve = torch.stack(curve)
    return state


def _temperature(settings: NoiseSearchSettings, iteration: int) -> float:
    fall = settings.final_temperature - settings.initial_temperature
    return settings.initial_temperature + fall * iteration / settings.num_iterations


def _losses(z: Tensor, gain: Tensor, targets: Tensor, residual: Tensor) -> Tensor:
    torch.mul(z, gain, out=residual).sub_(targets)
    # Differences of losses are compared with a temperature, so the rounding of a float32 sum would show.
    return residual.square_().sum(dim=1, dtype=torch.float64)


def _replace(values: Tensor, new: Tensor, flags: Tensor) -> None:
    rows = flags.nonzero().flatten()
    if len(rows):
        values.index_copy_(0, rows, new.index_select(0, rows))


def _on_curve(iteration: int, num_iterations: int) -> bool:
    return iteration % max(1, num_iterations // _CURVE_POINTS) == 0 or iteration == num_iterations


def _assembled(found: list[_Found], x_0: Tensor, whitening: Whitening, settings: NoiseSearchSettings) -> NoiseSearch:
    noise = torch.cat([part.noise for part in found])
    if settings.loss != "baseline":
        noise = (noise.double() @ whitening.eigenvectors.T).float()
    shape = (len(x_0), settings.num_chains)
    steps = [k for k in range(1, settings.num_iterations + 1) if _on_curve(k, settings.num_iterations)]
    return NoiseSearch(
        noise=noise.reshape(*shape, *x_0.shape[1:]),
        loss=torch.cat([part.loss for part in found]).reshape(shape),
        initial_loss=torch.cat([part.initial_loss for part in found]).reshape(shape),
        accept_rate=torch.cat([part.accepted for part in found]).reshape(shape) / settings.num_iterations,
        curve_iterations=torch.tensor(steps),
        curve=torch.cat([part.curve for part in found], dim=1).reshape(-1, *shape),
    )
