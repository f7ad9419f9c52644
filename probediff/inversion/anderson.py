"""Anderson acceleration: a fixed-point iteration that looks back at its last steps (Walker & Ni 2011, eq. 2.1)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# Relative to the columns' own lengths; keeps the small systems solvable when residuals are parallel or zero.
_RIDGE = 1e-10


def anderson_step(history: Sequence[tuple[Tensor, Tensor]], gain: float = 1.0) -> Tensor:
    """The next iterate of z <- g(z), such that a combination of the last residuals cancels (type II).

    Args:
        history: pairs of an iterate z and its residual g(z) - z, (B, ...) each and oldest first. With one pair the
            step is the plain one, z + gain (g(z) - z).
        gain: share of the residual that is gone along.

    Returns:
        (B, ...) in the dtype of z. No row depends on the others.
    """
    z, residual = history[-1]
    plain = z + gain * residual
    if len(history) == 1 or len(z) == 0:
        return plain
    pairs = list(pairwise(history))
    moves = torch.stack([(b[0] - a[0]).flatten(1) for a, b in pairs], dim=2).double()
    turns = torch.stack([(b[1] - a[1]).flatten(1) for a, b in pairs], dim=2).double()
    # By QR in float64, of scaled columns: the residuals are nearly parallel.
    scale = turns.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    ridge = _RIDGE * torch.eye(len(pairs), dtype=torch.float64, device=z.device).expand(len(z), -1, -1)
    q, r = torch.linalg.qr(torch.cat([turns / scale, ridge], dim=1))
    target = torch.cat([residual.double().flatten(1), turns.new_zeros(len(z), len(pairs))], dim=1)
    weights = torch.linalg.solve_triangular(r, q.mT @ target[:, :, None], upper=True) / scale.mT
    return plain - ((moves + gain * turns) @ weights).reshape(z.shape).to(z.dtype)
