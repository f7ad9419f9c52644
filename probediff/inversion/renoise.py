"""ReNoise (Garibi et al. 2024, arXiv 2403.14602, algorithm 1): noise again and again, and average the last estimates.

At each step the estimate of x_i is noised again from x_(i-1) with the prediction at the last estimate,
``renoise_iterations`` times after the first, and the last ``renoise_average`` estimates are averaged. The defaults are
those of the authors' configuration for few steps (10 evaluations a step, the last two averaged). Their edit-enhancing
losses, which move the prediction towards uncorrelated noise, their correction of a stochastic sampler's noise, and the
other averages they take below timestep 250 are left out. num_steps * (renoise_iterations + 1) evaluations.
"""

import torch
from torch import Tensor

from probediff.inversion.problem import Walk
from probediff.inversion.settings import InversionSettings


def estimate_preimage(walk: Walk, x: Tensor, level: int, settings: InversionSettings) -> Tensor:
    """The average of the last estimates for one of the sampler's steps."""
    z, averaged = x, torch.zeros_like(x)
    for iteration in range(settings.renoise_iterations + 1):
        z, x_0 = walk.preimage_map(z, x, level)
        walk.report_preimage(level, z, x_0)
        if iteration > settings.renoise_iterations - settings.renoise_average:
            averaged += z / settings.renoise_average
    return averaged
