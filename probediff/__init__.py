"""probediff: train pixel-space diffusion models and probe how noises, images and DDIM latents relate."""

__version__ = "0.1.0"
