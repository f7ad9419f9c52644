"""A probe whose values a test chooses."""

from __future__ import annotations

from probediff.callbacks.base import Probe
from probediff.probing import ProbePass, ProbeResult

SCORE = "probe/score/value"


class Score(Probe):
    """A number a step: those of ``values``, and the last one ever after."""

    def __init__(self, values: list[float], enabled: bool = True) -> None:
        super().__init__(enabled)
        self.values = values

    def measure(self, event: ProbePass) -> ProbeResult:
        return ProbeResult({"value": self.values[min(event.step, len(self.values) - 1)]})
