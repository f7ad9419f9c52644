"""Fixed-point inversion: iterate to invert each of the sampler's steps (AIDI, Pan et al. 2023, arXiv 2309.04907).

The state x_i that the sampler moved to x_(i-1) solves z = sqrt(a_i / a_(i-1)) x_(i-1) + b_i eps(z, t_i); see
``Walk.preimage_map``. From z = x_(i-1) this is iterated ``iterations`` times, damped, or by Anderson acceleration of
type II (Walker & Ni 2011, eq. 2.1; AIDI's algorithm with memory m), which combines the last iterates such that their
residuals cancel. num_steps * iterations evaluations. The number of iterations is fixed, so that no row depends on the
others of its batch.
"""

from torch import Tensor

from probediff.inversion.anderson import anderson_step
from probediff.inversion.problem import Walk
from probediff.inversion.settings import InversionSettings


def estimate_preimage(walk: Walk, x: Tensor, level: int, settings: InversionSettings) -> Tensor:
    """The fixed point for one of the sampler's steps, after the number of iterations."""
    z, gain = x, 1 - settings.damping
    history: list[tuple[Tensor, Tensor]] = []
    for _ in range(settings.iterations):
        mapped, x_0 = walk.preimage_map(z, x, level)
        history = [*history, (z, mapped - z)][-settings.anderson_memory - 1 :]
        z = anderson_step(history, gain)
        walk.report_preimage(level, z, x_0)
    return z
