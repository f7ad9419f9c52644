"""Is the map from noise to image an optimal transport, and which images and noises are hubs?"""

from typing import ClassVar

from probediff.callbacks.base import Probe
from probediff.measures import Transport, hub_counts, hubness, null_hubness, optimal_transport
from probediff.measures.transport import transports_without_groups
from probediff.measures.uncertainty import jackknife_errors, least_share_error
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult

_SHARES = ("identity_share", "nearest_image_share", "nearest_noise_share")
_GAPS = ("identity_gap", "nearest_image_gap", "nearest_noise_gap")


class NoiseImageMap(Probe):
    """The pairs of noise and sample beside the optimal assignment; hubness of both nearest-neighbour directions.

    Args:
        enabled: whether the probe runs.
        max_samples: assigns so many of the first samples; time grows with the third power.
    """

    needs_pairs: ClassVar[bool] = True

    def __init__(self, enabled: bool = True, max_samples: int = 1000) -> None:
        super().__init__(enabled)
        self.check_options(2, max_samples=max_samples)
        self.max_samples = max_samples

    def check(self, context: ProbeContext) -> None:
        """Needs something to choose from."""
        self.check_num_samples(context, 2)

    def measure(self, event: ProbePass) -> ProbeResult:
        """Shares and cost gaps with their values for random pairs; skewness of the captures; the assignment."""
        noise, x_0 = event.noise[: self.max_samples], event.x_0[: self.max_samples]
        transport = optimal_transport(noise, x_0)
        num = len(noise)
        values = {"num_samples": float(num), "hubness_null": null_hubness(num), **_numbers(transport)}
        values["identity_share_null"] = 1 / num
        errors = jackknife_errors([_numbers(without) for without in transports_without_groups(noise, x_0)])
        least = least_share_error(num)
        errors |= {name: max(errors[name], least) for name in _SHARES if name in errors}
        return ProbeResult(values, {"assigned_image": transport.assigned_image}, standard_errors=errors)


def _numbers(transport: Transport) -> dict[str, float]:
    """Shares, gaps, cost and hubness."""
    num = len(transport.assigned_image)
    values: dict[str, float] = {name: getattr(transport, name) for name in (*_SHARES, *_GAPS, "optimal_cost")}
    return values | {
        "identity_gap_null": transport.random_gap,
        "image_hubness": hubness(hub_counts(transport.nearest_image, num)),
        "noise_hubness": hubness(hub_counts(transport.nearest_noise, num)),
    }
