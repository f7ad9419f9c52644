"""Pictures of the samples: the same noises in the same places at every step."""

import math

import torch

from probediff.callbacks.base import Probe
from probediff.measures.uncertainty import mean_with_error, moments_with_errors, split_errors
from probediff.pictures import grid, to_uint8
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult

_MOST_ROWS = 12
_SAMPLES_A_ROW = 12


class FixedNoiseGeneration(Probe):
    """The grid of samples made from the first fixed noises.

    Args:
        enabled: whether the probe runs.
        num_shown: samples in the grid.
    """

    def __init__(self, enabled: bool = True, num_shown: int = 64) -> None:
        super().__init__(enabled)
        self.check_options(1, num_shown=num_shown)
        self.num_shown = num_shown

    def measure(self, event: ProbePass) -> ProbeResult:
        """Mean, spread and saturation of the samples, and their picture."""
        shown = event.pixels(event.x_0[: self.num_shown])
        mean, std = moments_with_errors(event.x_0)
        saturated = mean_with_error((event.x_0.abs() >= 0.999).double().flatten(1).mean(dim=1))
        values, errors = split_errors({"sample_mean": mean, "sample_std": std, "saturated_fraction": saturated})
        pictures = {"samples": grid(to_uint8(shown), math.ceil(math.sqrt(len(shown))))}
        return ProbeResult(values, pictures=pictures, standard_errors=errors)

    def finish(self, context: ProbeContext) -> dict[int, ProbeResult]:
        """The same noises over training: one row a step, evenly chosen among the stored ones."""
        steps = context.folder.sample_steps()
        if not steps:
            return {}
        chosen = sorted({steps[round(k * (len(steps) - 1) / (_MOST_ROWS - 1))] for k in range(_MOST_ROWS)})
        rows, errors = [], []
        for step in chosen:
            try:
                rows.append(to_uint8(context.stored_pixels(step, _SAMPLES_A_ROW)))
            except ValueError as error:
                errors.append(str(error))
        pictures = {"over_training": grid(torch.cat(rows), len(rows[0]))} if rows else {}
        return {steps[-1]: ProbeResult(pictures=pictures, error="; ".join(errors))}
