"""Inputs, weights and cheap networks by closed formulas, shared by the golden numbers and the tests that read them.

Nothing here uses a random number generator, so the numbers are the same for every version of every library.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def load_golden(name: str) -> dict[str, Any]:
    """Read `golden/<name>.json`."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def hashed_uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Float64 tensor in (0, 1): element i hashes (crc32(name), i) by exact integer arithmetic modulo 2^32.

    h = 2654435761 i + crc32(name); twice: h = (h xor h >> 16) * 0x45d9f3b; h = h xor h >> 16; u = (h + 0.5) / 2^32.
    """
    mask = 2**32 - 1
    value = torch.arange(math.prod(shape), dtype=torch.int64)
    value.mul_(2654435761).add_(zlib.crc32(name.encode())).bitwise_and_(mask)
    for _ in range(2):
        value.bitwise_xor_(value >> 16).mul_(0x45D9F3B).bitwise_and_(mask)
    value.bitwise_xor_(value >> 16)
    return ((value.double() + 0.5) / 2**32).reshape(shape)


def hashed_normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Float64 standard normal quantiles of `hashed_uniform`: sqrt(2) erfinv(2 u - 1)."""
    return math.sqrt(2.0) * torch.erfinv(2 * hashed_uniform(name, shape) - 1)


def hashed_images(name: str, shape: tuple[int, ...]) -> Tensor:
    """Float64 images in [-1, 1] on the 256 levels of 8 bits, both ends included: clamp(round(280 u - 12), 0, 255)."""
    level = (280 * hashed_uniform(name, shape) - 12).round().clamp(0, 255)
    return level / 127.5 - 1


def formula_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace every tensor by a formula of its name and index; no layer stays zero.

    With s = 2 hashed_uniform(name) - 1: two and more dimensions s sqrt(3 / fan_in); vectors ending in `weight`
    1 + 0.2 s; other vectors 0.2 s. Float32.
    """
    return {name: _formula_tensor(name, tuple(tensor.shape)) for name, tensor in state_dict.items()}


def _formula_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    signed = 2 * hashed_uniform(name, shape) - 1
    if len(shape) > 1:
        return (signed * math.sqrt(3.0 / math.prod(shape[1:]))).float()
    return (1 + 0.2 * signed if name.endswith("weight") else 0.2 * signed).float()


def analytic_eps(x: Tensor, scaled_timestep: Tensor) -> Tensor:
    """Smooth nonlinear "network" of x (B, C, H, W) and tau (B,) in 0..1000: close to optimal for N(0, 2) data.

    eps = s x / (2 c^2 + s^2) + 0.6 c sin(3 x + tau / 100) + 0.02 cos(2 x) with s = sin(h), c = cos(h),
    h = pi / 2 (tau / 1000 + 0.008) / 1.008. The images it implies leave [-1, 1] often enough for clipping to matter.
    """
    tau = scaled_timestep.to(x.dtype)[:, None, None, None]
    half_angle = math.pi / 2 * (tau / 1000 + 0.008) / 1.008
    s, c = half_angle.sin(), half_angle.cos()
    return s * x / (2 * c**2 + s**2) + 0.6 * c * torch.sin(3 * x + tau / 100) + 0.02 * torch.cos(2 * x)


def analytic_output(x: Tensor, scaled_timestep: Tensor) -> Tensor:
    """Like `analytic_eps` with the learned variance below it: cat(eps, v), v = 1.2 sin(1.5 x + tau / 200)."""
    tau = scaled_timestep.to(x.dtype)[:, None, None, None]
    return torch.cat([analytic_eps(x, scaled_timestep), 1.2 * torch.sin(1.5 * x + tau / 200)], dim=1)


def smooth_images(name: str, count: int, size: int) -> Tensor:
    """Float64 images (count, 3, size, size) in (-1, 1) whose neighbouring pixels and channels are correlated.

    tanh(1.5 sum_uv n_uv / (1 + u + v) cos(pi u (i + 1/2) / size) cos(pi v (j + 1/2) / size)), u and v in 0..4, n from
    `hashed_normal`, half of it shared by the channels.
    """
    normal = hashed_normal(name, (count, 4, 5, 5))
    coefficients = (normal[:, :3] + normal[:, 3:]) / math.sqrt(2)
    order = torch.arange(5, dtype=torch.float64)
    waves = torch.cos(math.pi * order[:, None] * (torch.arange(size, dtype=torch.float64) + 0.5) / size)
    coefficients = coefficients / (1 + order[:, None] + order)
    return torch.tanh(1.5 * torch.einsum("ncuv,ui,vj->ncij", coefficients, waves, waves))
