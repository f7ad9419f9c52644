"""Is the first step of a diffusion model a de-whitening? P2's figures 2 to 5 and its table, with the truth beside them.

`probediff.whitening.spectral` holds the arithmetic, `pairs` makes images' noises, `transforms` compares matrices,
`relation` looks at samples, and `command` is ``probediff whitening``.
"""
