"""What noises that resemble an image are for: the commands search-noise, vary and edit.

After section 6 of *First-step inference in diffusion models learns image de-whitening*.
"""
