"""Frozen feature networks, their weights, and distances between sets of images in their features."""
