"""Probes as other packages bring them."""

from __future__ import annotations

from probediff.callbacks import Probe
from probediff.probing import ProbePass, ProbeResult


class Brightness(Probe):
    """Mean of the samples, times a factor, and its own picture."""

    def __init__(self, factor: float = 1.0, enabled: bool = True) -> None:
        super().__init__(enabled)
        self.factor = factor

    def measure(self, event: ProbePass) -> ProbeResult:
        picture = (event.x_0[0].clamp(-1, 1) * 127.5 + 127.5).byte().expand(3, -1, -1)
        return ProbeResult({"mean": self.factor * event.x_0.mean()}, pictures={"first": picture})


class Contrast(Probe):
    """Standard deviation of the samples."""

    def measure(self, event: ProbePass) -> ProbeResult:
        return ProbeResult({"std": event.x_0.std()})


class NoProbe:
    """Not what an entry point should name."""
