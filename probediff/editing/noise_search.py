"""Noise that resembles an image: simulated annealing, many images and chains at once.

This is algorithm 1 of P2 (*First-step inference in diffusion models learns image de-whitening*). The forward loss
|W^-1 z - x|^2 and the backward loss |z - W x|^2 of ZCA whitening are diagonal in the eigenbasis of the covariance, and
white noise stays white under that rotation. So the whole search runs there: a proposal costs O(D) instead of a D x D
product, with exactly the same distribution of results. The two losses compare with the image minus the mean of the
whitening statistics, as whitening is defined; P2 subtracts nothing (``centre=False``). The baseline loss |z - x|^2
compares with the image as it is, here and in P2.

Proposals sin(pi/2 a) z + cos(pi/2 a) eps leave N(0, I) unchanged, and a proposal is taken with probability
exp(-(L' - L) / T). At a fixed temperature such a chain therefore settles at the density N(z; 0, I) exp(-L(z) / T): with
the gain g of an eigen-direction (its standard deviation, or 1) and the target t a normal law of variance
1 / (1 + 2 g^2 / T) around 2 g t / T times that. So the temperature alone decides between the image and noise: the
lower it is, the nearer the target and the further from N(0, I). P2 gives no temperatures;
`probediff.measures.in_distribution` shows what they did.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from probediff.files.capacity import PROPOSAL_SEC, check_memory, check_time
from probediff.measures.whitening import WhiteningTransform
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
        centre: Compare with the image minus the mean of the statistics; P2 does not. The baseline loss never does.
    """

    loss: SearchLoss = "forward"
    num_iterations: int = 10_000
    initial_temperature: float = 10.0
    final_temperature: float = 1.0
    step_size: float = 0.98
    num_chains: int = 1
    seed: int = 0
    centre: bool = True

    @property
    def is_centred(self) -> bool:
        """Whether the mean of the statistics is subtracted."""
        return self.centre and self.loss != "baseline"

    def __post_init__(self) -> None:
        if self.loss not in get_args(SearchLoss):
            raise ValueError(f"loss must be one of {', '.join(get_args(SearchLoss))}, got {self.loss!r}")
        for name in ("num_iterations", "num_chains"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
        for name in ("initial_temperature", "final_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, got {getattr(self, name)}")
        if not 0 <= self.step_size < 1:
            raise ValueError(f"step_size must be in [0, 1), got {self.step_size}; nothing moves at 1, 0.98 is usual")

    def check(self, num_images: int, shape: Sequence[int]) -> None:
        """Raise ValueError where so many images of a shape (C, H, W) need more than there is of memory or time."""
        num_noises = num_images * self.num_chains
        check_memory("num_chains", self.num_chains, 2 * 4 * num_noises * math.prod(shape), "lower it")
        num_proposals = num_noises * self.num_iterations
        check_time("num_iterations", f"{num_proposals:,} proposals", num_proposals * PROPOSAL_SEC)


@dataclass(frozen=True, eq=False)
class NoiseSearch:
    """Noises that `search_noise` settled on for B images with K chains each.

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


@torch.no_grad()
def search_noise(
    x_0: Tensor,
    whitening: WhiteningTransform,
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
    gain, targets = _diagonal_loss(x_0, whitening, settings)
    numbers = list(range(len(x_0))) if indices is None else list(indices)
    if len(numbers) != len(x_0):
        raise ValueError(f"indices must hold one number for each of the {len(x_0)} images, got {len(numbers)}")
    chains = [(number, chain) for number in numbers for chain in range(settings.num_chains)]
    targets = targets.repeat_interleave(settings.num_chains, dim=0)
    size = max(1, _GROUP_VALUES.get(x_0.device.type, _GROUP_VALUES_ELSEWHERE) // targets.shape[1])
    parts: list[NoiseSearch] = []

    def report(iteration: int, losses: Tensor) -> None:
        if on_progress is not None:
            proposals = sum(len(part.loss) for part in parts) * settings.num_iterations + iteration * len(losses)
            on_progress(proposals, len(chains) * settings.num_iterations, losses)

    for start in range(0, len(chains), size):
        group = slice(start, start + size)
        draws = _Draws(chains[group], settings.seed, targets)
        parts.append(_anneal(gain, targets[group], draws, settings, report))
    names = ("noise", "loss", "initial_loss", "accept_rate")
    noise, loss, initial_loss, rate = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    if settings.loss != "baseline":
        noise = (noise.double() @ whitening.eigenvectors.T).float()
    shape, curve = (len(x_0), settings.num_chains), torch.cat([part.curve for part in parts], dim=1)
    return NoiseSearch(
        noise.reshape(*shape, *x_0.shape[1:]),
        loss.reshape(shape),
        initial_loss.reshape(shape),
        rate.reshape(shape),
        parts[0].curve_iterations,
        curve.reshape(-1, *shape),
    )


def _diagonal_loss(x_0: Tensor, whitening: WhiteningTransform, settings: NoiseSearchSettings) -> tuple[Tensor, Tensor]:
    """Gain (D,) and targets (B, D), float32, so that the loss is sum (gain z - target)^2 in the search's own basis."""
    rows = whitening.checked_rows("x_0", x_0)
    if settings.is_centred:
        rows = rows - whitening.mean
    if settings.loss == "baseline":
        return torch.ones_like(rows[0]).float(), rows.float()
    rotated, std = rows @ whitening.eigenvectors, whitening.eigenvalues.sqrt()
    if settings.loss == "forward":
        return std.float(), rotated.float()
    return torch.ones_like(std).float(), (rotated / std).float()


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
) -> NoiseSearch:
    """Algorithm 1 for a group of chains (n,), in the search's own basis.

    exp(-d / T) > u is asked as d < -T log u, which also holds at T = 0.
    """
    keep, add = math.sin(math.pi / 2 * settings.step_size), math.cos(math.pi / 2 * settings.step_size)
    total, fall = settings.num_iterations, settings.final_temperature - settings.initial_temperature
    every = max(1, total // _CURVE_POINTS)
    curve_iterations = [*range(every, total, every), total]
    z = draws.start()
    proposal, residual = torch.empty_like(z), torch.empty_like(z)
    loss = initial_loss = best_loss = _losses(z, gain, targets, residual)
    best, accepted, curve = z.clone(), torch.zeros_like(loss), list[Tensor]()
    for iteration in range(1, total + 1):
        column = (iteration - 1) % _BLOCK
        if column == 0:
            eps, exponential = draws.block()
        temperature = settings.initial_temperature + fall * iteration / total
        torch.mul(z, keep, out=proposal).add_(eps[:, column], alpha=add)
        new = _losses(proposal, gain, targets, residual)
        is_taken = new - loss < temperature * exponential[:, column]
        is_better = new < best_loss
        _replace(z, proposal, is_taken)
        _replace(best, proposal, is_better)
        loss = torch.where(is_taken, new, loss)
        best_loss = torch.where(is_better, new, best_loss)
        accepted += is_taken
        if iteration == curve_iterations[len(curve)]:
            curve.append(loss)
            report(iteration, loss)
    rate, iterations = accepted / total, torch.tensor(curve_iterations)
    return NoiseSearch(best, best_loss, initial_loss, rate, iterations, torch.stack(curve))


def _losses(z: Tensor, gain: Tensor, targets: Tensor, residual: Tensor) -> Tensor:
    torch.mul(z, gain, out=residual).sub_(targets)
    # Differences of losses are compared with a temperature, so the rounding of a float32 sum would show.
    return residual.square_().sum(dim=1, dtype=torch.float64)


def _replace(values: Tensor, new: Tensor, flags: Tensor) -> None:
    rows = flags.nonzero().flatten()
    if len(rows):
        values.index_copy_(0, rows, new.index_select(0, rows))
