"""Sweeps: the files that ``wandb sweep`` takes, run here or by ``wandb agent``; the folder of each trial."""
