"""Denoisers with closed forms, and short ways to name a problem and a method."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probediff.denoisers import GaussianDenoiser
from probediff.inversion import InversionSettings, Problem, invert, resample, sample
from probediff.schedule import NoiseSchedule
from tests.reference import inversion_reference as reference

D = 12
SCHEDULE = NoiseSchedule.cosine(1000)
MIXING = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / D**0.5
NOISE = torch.randn(5, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
CONVENTIONS = ("openai", "diffusers")
EXACT = ("edict", "bdia", "belm")
ALL = ("ddim", "forward", "swap", "fixed_point", "renoise", "newton", *EXACT)


def smooth_eps(x: Tensor, timestep: Tensor) -> Tensor:
    """A nonlinear denoiser that couples the values and depends on the timestep."""
    share = (timestep.to(x.dtype) / 1000)[:, None]
    return 0.6 * share * x + 0.3 * torch.tanh(x @ MIXING.to(x.dtype) + share)


def smooth_eps_numpy(x: reference.Array, timestep: int) -> reference.Array:
    share = timestep / 1000
    return np.asarray(0.6 * share * x + 0.3 * np.tanh(x @ MIXING.numpy() + share))


def problem(model: Any = smooth_eps, **options: Any) -> Problem:
    defaults = {"schedule": SCHEDULE, "num_steps": 10, "clip": False, "clip_inversion": False}
    return Problem(model, **(defaults | options))


def settings(method: str, **options: Any) -> InversionSettings:
    return InversionSettings(method, **options)  # type: ignore[arg-type]


def ladder(of: Problem) -> reference.Ladder:
    return list(of.path.levels), [-1, *of.path.timesteps]


def by_row(function: Any, x: Tensor, *arguments: Any) -> Tensor:
    return torch.stack([torch.as_tensor(np.asarray(function(row.numpy(), *arguments))) for row in x])


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def gaussian() -> tuple[GaussianDenoiser, Tensor, Tensor]:
    """A denoiser of float64 Gaussian data, its mean, and the symmetric square root of its covariance."""
    basis, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    root = basis @ torch.diag(torch.linspace(0.05, 1.2, D, dtype=torch.float64).sqrt()) @ basis.T
    mean = torch.linspace(-0.3, 0.4, D, dtype=torch.float64)
    return GaussianDenoiser(mean, root @ root, NoiseSchedule.cosine(4000)), mean, root


def relative_error(of: Problem, chosen: InversionSettings, x_T: Tensor) -> float:
    state = sample(of, chosen, x_T)
    again = resample(of, chosen, invert(of, chosen, state, range(len(x_T)))).x
    return float((again - state.x).norm() / state.x.norm())
