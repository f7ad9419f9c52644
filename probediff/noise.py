"""Keyed randomness: every random number is a pure function of a seed and of what it is for.

Probe noise is counter-based (Philox), so noise number i is the same at any batch size, on any number of processes and
on any device. Training randomness is drawn from generators that are keyed by (seed, step, purpose).
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_CHUNK_VALUES = 1 << 22
#: The largest seed of noises.
MAX_SEED = (1 << 64) - 1


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit counters (int64 tensors) -> four 32-bit random words.

    The product of two 32-bit words wraps in int64, but its bits are right, which is all that is used of it.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be an integer in 0..2**64-1, got {seed!r}")
    return seed


def _normal_rows(seed: int, rows: Tensor, num_values: int) -> Tensor:
    """(n, num_values) float32 standard normals (Box-Muller) for the sample indices ``rows`` (n,)."""
    block = torch.arange((num_values + 3) // 4, device=rows.device)
    low, high = (rows & _MASK)[:, None], (rows >> 32)[:, None]
    words = philox((block, low, high, torch.zeros_like(block)), (seed & _MASK, seed >> 32))
    u = [word.expand(len(rows), -1).double() for word in words]
    radius = [(-2 * torch.log((v + 1) / 2**32)).sqrt() for v in (u[0], u[2])]
    angle = [v * (2 * math.pi / 2**32) for v in (u[1], u[3])]
    normals = [f(a) * r for r, a in zip(radius, angle, strict=True) for f in (torch.cos, torch.sin)]
    return torch.stack(normals, dim=-1).flatten(1)[:, :num_values].float()


def seeded_noise(
    seed: int, indices: Sequence[int] | Tensor, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise for the samples ``indices``; row k depends on ``seed`` and ``indices[k]`` only.

    Args:
        seed: 0..2**64-1.
        indices: sample numbers, each at least 0, in any order.
        shape: shape of one sample, e.g. ``(3, 32, 32)``.
        device: where the noise is made; values agree between devices to float32 rounding.

    Returns:
        (len(indices), *shape) float32.

    Raises:
        ValueError: bad seed, negative or non-integer index, empty or non-positive shape.
    """
    _checked_seed(seed)
    rows = torch.as_tensor(list(indices) if not isinstance(indices, Tensor) else indices, device=device)
    if rows.numel() == 0:
        rows = rows.long()
    if rows.ndim != 1 or rows.is_floating_point() or rows.dtype == torch.bool or bool((rows < 0).any()):
        raise ValueError(f"indices must be a sequence of integers of at least 0, got {indices!r}")
    if len(shape) == 0 or any(int(s) != s or s < 1 for s in shape):
        raise ValueError(f"shape must hold positive integers, got {tuple(shape)!r}")
    num_values = math.prod(shape)
    chunks = rows.long().split(max(1, _CHUNK_VALUES // num_values))
    return torch.cat([_normal_rows(seed, chunk, num_values) for chunk in chunks]).reshape(-1, *shape)


def derived_seed(*key: int | str) -> int:
    """A 63-bit seed from ``key``; different keys give unrelated seeds.

    A hash, because torch's CPU generator looks at the low 32 bits of its seed only.
    """
    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class TrainingDraws:
    """What one training step draws, for the rows of this process.

    Attributes:
        timestep: (B,) int64, uniform over 0..T-1.
        eps: (B, C, H, W) float32 standard normal.
        flip: (B,) bool, each True with probability 1/2.
    """

    timestep: Tensor
    eps: Tensor
    flip: Tensor


def training_draws(
    seed: int, step: int, x_0: Tensor, num_train_timesteps: int, rank: int = 0, world_size: int = 1
) -> TrainingDraws:
    """The timesteps, noise and flips of training batch number ``step``, a pure function of ``(seed, step)``.

    The draws of the whole global batch are made and this process keeps its rows, so any number of processes with the
    same global batch sees the same numbers. CPU and GPU generators differ from one another.
    """
    num_rows = len(x_0) * world_size
    generator = torch.Generator(x_0.device).manual_seed(derived_seed(_checked_seed(seed), step, "training"))
    options = {"generator": generator, "device": x_0.device}
    mine = slice(rank * len(x_0), (rank + 1) * len(x_0))
    timestep = torch.randint(num_train_timesteps, (num_rows,), **options)  # type: ignore[call-overload]
    flip = torch.rand(num_rows, **options) < 0.5  # type: ignore[call-overload]
    eps = torch.randn(num_rows, *x_0.shape[1:], **options)  # type: ignore[call-overload]
    return TrainingDraws(timestep[mine], eps[mine], flip[mine])


@contextmanager
def keyed_global_randomness(device: torch.device, *key: int | str) -> Iterator[None]:
    """Inside, torch's global generators (dropout uses them) are seeded from ``key``; afterwards they are as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(*key))
        yield
