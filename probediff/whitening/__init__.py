"""Is the first step of a diffusion model a de-whitening? P2's figures 2 to 5 and table, with the truth beside them.

P2 is *First-step inference in diffusion models learns image de-whitening*. `pairs` makes images' noises by a network,
`closed_form` those of Gaussian data; `spectral` looks at the map along eigenvectors, `transforms` compares matrices,
`relation` looks at samples, and `analysis` is all of it for ``probediff whitening``.
"""
