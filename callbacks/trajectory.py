"""Where does the sampling trajectory pass the latent? (P1-F3)"""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from probediff.callbacks.base import Probe
from probediff.measures.trajectory import closest_approach, heat_map
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult

#: From near (light) to far (dark).
_COLOURS = ((252, 253, 191), (254, 159, 109), (222, 73, 104), (140, 41, 129), (59, 15, 112), (0, 0, 4))
_SIDE_PX, _MARGIN_PX = 404, 68


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
        return ProbeResult(asdict(closest_approach(event.trajectory, lambdas)), arrays, {"heatmap": _picture(mean)})


def _picture(mean: Tensor) -> Tensor:
    """(S, L) distances -> (3, H, W) uint8: steps to the right, lambda upwards, light is near."""
    table = torch.tensor(_COLOURS, dtype=torch.float32)
    position = (mean.float() / mean.max().float().clamp(min=1e-12)).T.flip(0) * (len(table) - 1)
    below = position.floor().long().clamp(max=len(table) - 2)
    part = (position - below)[..., None]
    colours = ((1 - part) * table[below] + part * table[below + 1]).permute(2, 0, 1)
    enlarged = interpolate(colours[None], (_SIDE_PX, _SIDE_PX), mode="nearest")[0].round().to(torch.uint8)
    canvas = Image.new("RGB", (_SIDE_PX + 2 * _MARGIN_PX, _SIDE_PX + 2 * _MARGIN_PX), "white")
    canvas.paste(Image.fromarray(enlarged.permute(1, 2, 0).contiguous().numpy()), (_MARGIN_PX, _MARGIN_PX))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    far = _MARGIN_PX + _SIDE_PX
    draw.text((_MARGIN_PX, far + 6), "noise", "black", font)
    draw.text((_MARGIN_PX + _SIDE_PX / 2, far + 6), "sampling steps", "black", font, "ma")
    draw.text((far, far + 6), "sample", "black", font, "ra")
    draw.text((_MARGIN_PX - 4, far), "0", "black", font, "rs")
    draw.text((_MARGIN_PX - 4, _MARGIN_PX + _SIDE_PX / 2), "lambda", "black", font, "rm")
    draw.text((_MARGIN_PX - 4, _MARGIN_PX), "1", "black", font, "ra")
    title = f"distance to (1 - lambda) noise + lambda latent, 0 to {float(mean.max()):.3g}"
    draw.text((_MARGIN_PX + _SIDE_PX / 2, _MARGIN_PX - 8), title, "black", font, "ms")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
