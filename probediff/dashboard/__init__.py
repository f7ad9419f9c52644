"""A Weights & Biases workspace with a panel for everything that a run logs, described as plain data."""
