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
from probediff.measures.assignment import AssignmentAccuracy, assignment_accuracy
from probediff.measures.correlation import null_top_k_correlation, top_k_correlation
from probediff.measures.covariance import Moments, linear_fit, moments, paired_moments
from probediff.measures.denoiser_structure import best_bandwidth, memorisation_gap, structure
from probediff.measures.explained import explained_share, explained_variance, isotropic_denoised, relative_distance
from probediff.measures.hubs import (
    capture_correlation,
    hub_counts,
    mean_over_captures,
    pixel_variance,
    squared_brightness,
    squared_norm_per_value,
)
from probediff.measures.interpolation import midpoint_contrast, path_lengths, slerp, slerp_path
from probediff.measures.normality import (
    BesideNull,
    Normality,
    kolmogorov_smirnov,
    latent_normality,
    patch_correlation,
    pixel_divergence,
    radial_power,
    shapiro_rejected_share,
    squared_norms,
)
from probediff.measures.plain_areas import PlainAreaErrors, plain_area_errors, plain_areas
from probediff.measures.similarity import cka, cosine_similarity, image_r2, ssim, svcca
from probediff.measures.trajectory import (
    ClosestApproach,
    TrajectoryDistances,
    TrajectoryRecorder,
    closest_approach,
    heat_map,
)
from probediff.measures.transport import (
    Reproducibility,
    Transport,
    hubness,
    null_hubness,
    optimal_transport,
    reproducibility,
)
from probediff.measures.whitening import (
    Whitening,
    WhiteningTransform,
    deviation_from_identity,
    least_squares_map,
    matrix_distance,
)

__all__ = [
    "AssignmentAccuracy",
    "BesideNull",
    "ClosestApproach",
    "Moments",
    "MostProbableTriangle",
    "Normality",
    "PlainAreaErrors",
    "Reproducibility",
    "TrajectoryDistances",
    "TrajectoryRecorder",
    "Transport",
    "TriangleAngles",
    "TriangleDistances",
    "Whitening",
    "WhiteningTransform",
    "angle_of_mean_cosine",
    "assignment_accuracy",
    "best_bandwidth",
    "capture_correlation",
    "cka",
    "closest_approach",
    "cosine_similarity",
    "deviation_from_identity",
    "explained_share",
    "explained_variance",
    "heat_map",
    "hub_counts",
    "hubness",
    "image_r2",
    "isotropic_denoised",
    "kolmogorov_smirnov",
    "latent_normality",
    "least_squares_map",
    "linear_fit",
    "matrix_distance",
    "mean_over_captures",
    "memorisation_gap",
    "midpoint_contrast",
    "moments",
    "most_probable_triangle",
    "null_hubness",
    "null_top_k_correlation",
    "optimal_transport",
    "paired_moments",
    "patch_correlation",
    "path_lengths",
    "pixel_divergence",
    "pixel_variance",
    "plain_area_errors",
    "plain_areas",
    "radial_power",
    "relative_distance",
    "reproducibility",
    "shapiro_rejected_share",
    "slerp",
    "slerp_path",
    "squared_brightness",
    "squared_norm_per_value",
    "squared_norms",
    "ssim",
    "structure",
    "svcca",
    "top_k_correlation",
    "triangle_angles",
    "triangle_distances",
]
