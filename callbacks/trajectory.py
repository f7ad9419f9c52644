"""Where does the sampling trajectory pass the latent?

This is figure 3 of P1, *There and Back Again*.
"""

import math
from dataclasses import asdict
from typing import ClassVar

import torch

from probediff import pictures
from probediff.callbacks.base import Probe
from probediff.files.capacity import check_memory
from probediff.measures.trajectory import closest_approach, closest_approach_errors, heat_map
from probediff.probing.probe import ProbeContext
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult


class TrajectoryHeatmap(Probe):
    """Mean distance of the sampling trajectory to the points between noise and latent, by step and place.

    Args:
        enabled: whether the probe runs.
        num_lambdas: evenly spaced places on the way from the noise (lambda = 0) to the latent (lambda = 1).
    """

    needs_latent: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True
    needs_trajectory: ClassVar[bool] = True

    def __init__(self, enabled: bool = True, num_lambdas: int = 101) -> None:
        super().__init__(enabled)
        self.check_options(2, num_lambdas=num_lambdas)
        self.num_lambdas = num_lambdas

    def check(self, context: ProbeContext) -> None:
        """Needs a map that fits into memory."""
        size = 8 * self.num_lambdas * context.settings.num_steps
        check_memory("trajectory_heatmap.num_lambdas", self.num_lambdas, size, "lower it")

    def measure(self, event: ProbePass) -> ProbeResult:
        """Where the trajectory comes nearest to the latent and to the segment; the whole map as array and picture."""
        if event.trajectory is None:
            raise ValueError("trajectory_heatmap needs a pass that kept its trajectories, got one without")
        lambdas = torch.linspace(0, 1, self.num_lambdas, dtype=torch.float64)
        mean = heat_map(event.trajectory, lambdas)
        arrays = {
            "mean_distance": mean.float(),
            "step_fraction": event.trajectory.step_fraction.float(),
            "lambdas": lambdas.float(),
        }
        values = asdict(closest_approach(event.trajectory, lambdas))
        errors = closest_approach_errors(event.trajectory, lambdas)
        known = {name: error for name, error in errors.items() if not math.isnan(error)}
        return ProbeResult(values, arrays, {"heatmap": pictures.heat_map(**arrays)}, standard_errors=known)
