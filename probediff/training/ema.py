"""Exponentially averaged weights, kept as ready-to-use copies of the model."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AveragedWeights(nn.Module):
    """Copies of ``model`` whose parameters follow ``average <- rate * average + (1 - rate) * parameter``.

    As in improved-diffusion the average starts at the initial weights. A probe uses a copy as it is, so that nothing
    is swapped into the training model.

    Args:
        model: the model that is trained; its weights are copied.
        rates: averaging rates in (0, 1), e.g. ``[0.9999]``; one copy each.
        warmup: use ``min(rate, (1 + step) / (10 + step))``, which forgets the initial weights within a short run.

    Raises:
        ValueError: a rate outside (0, 1), or the same rate twice.
    """

    def __init__(self, model: nn.Module, rates: Sequence[float], warmup: bool = False) -> None:
        super().__init__()
        if any(not 0 < rate < 1 for rate in rates) or len(set(rates)) != len(rates):
            raise ValueError(f"ema_rates must be different numbers strictly between 0 and 1, got {list(rates)}")
        self.rates = tuple(rates)
        self.warmup = warmup
        self.models = nn.ModuleList(copy.deepcopy(model).requires_grad_(False).eval() for _ in rates)

    def rate_at(self, rate: float, step: int) -> float:
        """The rate in force at the update that makes optimiser step number ``step`` (from 1)."""
        return min(rate, (1 + step) / (10 + step)) if self.warmup else rate

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move every average towards ``model`` after optimiser step number ``step``; buffers are copied."""
        for rate, averaged in zip(self.rates, self.models, strict=True):
            weight = 1 - self.rate_at(rate, step)
            averages: list[Tensor] = list(averaged.parameters())
            torch._foreach_lerp_(averages, list(model.parameters()), weight)
            for averaged_buffer, buffer in zip(averaged.buffers(), model.buffers(), strict=True):
                averaged_buffer.copy_(buffer)

    def model(self, rate: float | None = None) -> nn.Module:
        """The averaged copy for ``rate`` (the first one when None).

        Raises:
            ValueError: when no such average is kept.
        """
        if not self.rates or (rate is not None and rate not in self.rates):
            raise ValueError(
                f"ema_rate must be one of the averages that the model keeps, {list(self.rates)}, got {rate}; "
                f"add it to --model.ema_rates or probe the raw weights (--probing.settings.weights raw)"
            )
        return self.models[0 if rate is None else self.rates.index(rate)]
