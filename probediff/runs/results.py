"""What one probe found at one step, on its way to the records."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found at one step.

    Attributes:
        values: numbers for the record and the dashboards, keys ``<quantity>[_<unit>]``.
        arrays: per-sample tensors, kept beside the samples.
        pictures: (3, H, W) uint8 pictures by name.
        histograms: names of ``arrays`` that dashboards show as histograms.
    """

    values: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    histograms: tuple[str, ...] = ()
