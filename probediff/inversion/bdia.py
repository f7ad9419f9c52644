"""BDIA-DDIM (Zhang et al. 2023, arXiv 2307.10829): bi-directional integration approximation, exactly invertible.

z_(i-1) = z_(i+1) - (1 - gamma) (z_(i+1) - z_i) - gamma Delta(t_i -> t_(i+1)) + Delta(t_i -> t_(i-1)), both Delta being
DDIM updates from z_i. The authors advise gamma = 1 for about 100 steps and 0.5 for few; inversion divides by gamma in
each step, rounding errors included, so that 0.5 is of use for few steps only.
"""

from probediff.inversion.two_step import two_step_method

METHOD = two_step_method(lambda settings: lambda levels, level: settings.bdia_gamma)
