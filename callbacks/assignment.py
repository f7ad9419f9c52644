"""Can a noise be told from its image, and an image from its noise? (*There and Back Again*, T2, F5, F7, F8)"""

from typing import ClassVar

import torch
from torch import Tensor

from probediff.callbacks.base import Probe
from probediff.measures import AssignmentAccuracy as Assignment
from probediff.measures import (
    assignment_accuracy,
    capture_correlation,
    hub_counts,
    mean_over_captures,
    pixel_variance,
    squared_brightness,
    squared_norm_per_value,
)
from probediff.measures.assignment_errors import assignments_without_groups
from probediff.measures.uncertainty import jackknife_errors, least_share_error
from probediff.pictures import grid, to_uint8
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult

_ACCURACIES = ("image_to_noise", "noise_to_image", "image_to_noise_top5", "noise_to_image_top5")


class AssignmentAccuracy(Probe):
    """Nearest-neighbour (L2) assignment between noises and samples, both ways, and the samples that act as hubs.

    Args:
        enabled: whether the probe runs.
        num_hubs: hubs in the picture and the table, in the order of the noises that they capture.
    """

    needs_pairs: ClassVar[bool] = True

    def __init__(self, enabled: bool = True, num_hubs: int = 16) -> None:
        super().__init__(enabled)
        self.check_options(1, num_hubs=num_hubs)
        self.num_hubs = num_hubs

    def measure(self, event: ProbePass) -> ProbeResult:
        """Accuracies with the null 1/N; share, variance and norm of hubs, also in a table; per-sample assignments."""
        accuracy = assignment_accuracy(event.noise, event.x_0)
        captured = hub_counts(accuracy.nearest_image, len(event.x_0))
        of_samples = {
            "pixel_variance": pixel_variance(event.x_0),
            "squared_norm_per_value": squared_norm_per_value(event.x_0),
            "squared_brightness": squared_brightness(event.x_0),
        }
        top = torch.argsort(captured, descending=True, stable=True)[: self.num_hubs]
        values = _numbers(accuracy, of_samples) | {"null": 1 / len(event.x_0)}
        arrays = {
            "nearest_noise": accuracy.nearest_noise,
            "nearest_image": accuracy.nearest_image,
            "captured_noises": captured,
            **{name: quantity.float() for name, quantity in of_samples.items()},
            "hubs_sample": top,
            "hubs_captures": captured[top],
            "hubs_share": captured[top] / len(event.x_0),
            **{f"hubs_{name}": quantity[top].float() for name, quantity in of_samples.items()},
        }
        pictures = {"hubs": grid(to_uint8(event.pixels(event.x_0[top])), len(top))}
        return ProbeResult(values, arrays, pictures, tables=("hubs",), standard_errors=_errors(event, of_samples))


def _numbers(accuracy: Assignment, of_samples: dict[str, Tensor]) -> dict[str, float]:
    """What an assignment, and the quantities of its samples, give."""
    num = len(accuracy.nearest_image)
    captured = hub_counts(accuracy.nearest_image, num)
    values = {name: float(getattr(accuracy, name)) for name in _ACCURACIES}
    values["largest_hub_share"] = int(captured.max()) / num
    for name, quantity in of_samples.items():
        values |= {f"hubs_{name}": mean_over_captures(captured, quantity), name: float(quantity.mean())}
        values[f"captures_{name}_spearman"] = capture_correlation(captured, quantity)
    return values


def _errors(event: ProbePass, of_samples: dict[str, Tensor]) -> dict[str, float]:
    """Standard errors; of a share at least those of the rule of three."""
    without = [
        _numbers(accuracy, {name: quantity[kept] for name, quantity in of_samples.items()})
        for kept, accuracy in assignments_without_groups(event.noise, event.x_0)
    ]
    errors = jackknife_errors(without)
    least = least_share_error(len(event.x_0))
    return errors | {name: max(errors[name], least) for name in _ACCURACIES if name in errors}
