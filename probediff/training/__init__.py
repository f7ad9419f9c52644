"""Training of a denoising diffusion model; knows no probe."""
