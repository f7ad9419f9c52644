"""What one probe found at one step, on its way to the records and to loggers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from probediff.runs.catalogue import Kind

#: Training step and probe: what one result belongs to.
Event = tuple[int, str]


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found at one step.

    Attributes:
        values: numbers for the record and the dashboards, keys ``<quantity>[_<unit>]``.
        arrays: per-sample tensors, kept beside the samples.
        pictures: (3, H, W) uint8 pictures by name.
        histograms: names of ``arrays`` that dashboards show as histograms.
        error: why there is no result, or none of a part.
    """

    values: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    histograms: tuple[str, ...] = ()
    error: str = ""

    def kinds(self) -> dict[str, Kind]:
        """What a dashboard shows under which key."""
        kinds: dict[str, Kind] = dict.fromkeys(self.values, "number")
        kinds |= dict.fromkeys(self.pictures, "picture")
        return kinds | dict.fromkeys((f"{name}_histogram" for name in self.histograms), "histogram")


@runtime_checkable
class ResultLogger(Protocol):
    """A logger that takes whole results, pictures and histograms too, as this package's one for W&B does."""

    def log_result(self, step: int, probe: str, result: ProbeResult) -> None:
        """Log everything of one probe under the training step."""


@runtime_checkable
class RememberingLogger(ResultLogger, Protocol):
    """A logger that can tell what it got in earlier starts of a run."""

    def missing_events(self, events: Sequence[Event]) -> list[Event]:
        """Those of ``events`` that it has not, in their order; none where it cannot be known."""
