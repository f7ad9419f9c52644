"""Measures: pure functions of tensors. Images are (N, C, H, W) or (N, D) of any floating dtype; torch only."""

from probediff.measures.angles import (
    MostProbableTriangle,
    TriangleAngles,
    TriangleDistances,
    angle_of_mean_cosine,
    most_probable_triangle,
    triangle_angles,
    triangle_distances,
)
from probediff.measures.assignment import AssignmentAccuracy, assignment_accuracy, hub_counts, pixel_variance
from probediff.measures.correlation import null_top_k_correlation, top_k_correlation
from probediff.measures.similarity import cka, cosine_similarity, ssim, svcca

__all__ = [
    "AssignmentAccuracy",
    "MostProbableTriangle",
    "TriangleAngles",
    "TriangleDistances",
    "angle_of_mean_cosine",
    "assignment_accuracy",
    "cka",
    "cosine_similarity",
    "hub_counts",
    "most_probable_triangle",
    "null_top_k_correlation",
    "pixel_variance",
    "ssim",
    "svcca",
    "top_k_correlation",
    "triangle_angles",
    "triangle_distances",
]
