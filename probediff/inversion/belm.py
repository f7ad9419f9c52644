"""O-BELM (Wang et al. 2024, arXiv 2410.07273): the two-step exact scheme of smallest local truncation error.

With alpha_i = sqrt(alpha_bar_i) and h_i the growth of sigma / alpha from level i - 1 to i,

    x_(i-1) = h_i² / h_(i+1)² alpha_(i-1) / alpha_(i+1) x_(i+1)
              + (h_(i+1)² - h_i²) / h_(i+1)² alpha_(i-1) / alpha_i x_i
              - h_i (h_i + h_(i+1)) / h_(i+1) alpha_(i-1) eps(x_i, t_i),

which is ``two_step`` with gamma_i = h_i² alpha_(i-1) / (h_(i+1)² alpha_(i+1)). One evaluation a step. Inversion
multiplies errors by (h_(i+1) / h_i)² a step where h grows, which it does by orders of magnitude in all: rounding
errors, see ``Problem.network_dtype``, and for a bare image what its first, plain DDIM step is wrong by, so that the
latent's error does not fall with num_steps (the reconstruction is exact all the same).
"""

from collections.abc import Sequence

from probediff.inversion.two_step import two_step_method


def _noise_to_signal(alpha_bar: float) -> float:
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def _gamma(levels: Sequence[float], level: int) -> float:
    below, here, above = (_noise_to_signal(a) for a in levels[level - 1 : level + 2])
    ratio = (here - below) / (above - here)
    return float(ratio**2 * (levels[level - 1] / levels[level + 1]) ** 0.5)


METHOD = two_step_method(lambda settings: _gamma)
