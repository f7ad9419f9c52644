"""What a run logs to W&B when every probe is enabled with its defaults: the keys to expect before a run has logged any.

A project's own runs say more once there are some; a test compares this list with what a run logs.
"""

from __future__ import annotations

from typing import Literal

#: What W&B holds under a key.
Kind = Literal["number", "picture", "histogram"]

_NUMBERS = {
    "training": "loss_mean steps_per_second",
    "pass": "network_evaluations",
    "run": "last_step",
    "timing": """assignment_accuracy_seconds checkpoint_similarity_seconds event_seconds fixed_noise_generation_seconds
        inversion_angles_seconds latent_normality_seconds noise_image_map_seconds pass_seconds pixel_correlation_seconds
        trajectory_heatmap_seconds""",
    "fixed_noise_generation": "sample_mean sample_std saturated_fraction",
    "inversion_angles": """at_noise_mean_deg at_image_mean_deg at_latent_mean_deg at_image_of_mean_cosine_deg
        at_noise_std_deg at_image_std_deg at_latent_std_deg
        at_noise_most_probable_deg at_image_most_probable_deg at_latent_most_probable_deg
        distance_noise_image_mean distance_image_latent_mean distance_noise_latent_mean
        distance_noise_image_std distance_image_latent_std distance_noise_latent_std latent_mean latent_std""",
    "assignment_accuracy": """image_to_noise noise_to_image null image_to_noise_top5 noise_to_image_top5
        largest_hub_share hubs_pixel_variance pixel_variance""",
    "pixel_correlation": "noise latent sample null k",
    "checkpoint_similarity": "cka cka_debiased svcca ssim previous_step",
    "checkpoint_similarity_final": "cka cka_debiased svcca ssim final_step",
    "latent_normality": """mean mean_null std std_null ks_mean_distance ks_mean_distance_null ks_rejected_share
        ks_rejected_share_null shapiro_rejected_share shapiro_rejected_share_null norm_outside_share
        norm_outside_share_null pixel_divergence pixel_divergence_null squared_norm_per_value
        squared_norm_per_value_null low_to_high_power low_to_high_power_null patch_correlation patch_correlation_null
        plain_area_inside plain_area_outside plain_area_inside_null plain_area_outside_null plain_area_plain_share
        plain_area_threshold shapiro_samples""",
    "trajectory_heatmap": """closest_to_latent_distance noise_latent_distance closest_to_latent_step_fraction
        closest_step_fraction latent_nearest_from_step_fraction closest_lambda""",
    "noise_image_map": """identity_share identity_share_null nearest_image_share nearest_noise_share identity_gap
        identity_gap_null nearest_image_gap nearest_noise_gap image_hubness noise_hubness hubness_null optimal_cost
        num_samples""",
}
_PICTURES = {
    "fixed_noise_generation": "samples",
    "fixed_noise_generation_final": "over_training",
    "inversion_angles": "latents triangle",
    "assignment_accuracy": "hubs",
    "trajectory_heatmap": "heatmap",
}
_HISTOGRAMS = {"inversion_angles": "at_noise_deg_histogram at_image_deg_histogram at_latent_deg_histogram"}


def default_keys() -> dict[str, Kind]:
    """Every key that a run logs with all probes at their defaults, and what is under it."""
    keys: dict[str, Kind] = {"train/loss": "number", "epoch": "number", "trainer/global_step": "number"}
    kinds: tuple[tuple[Kind, dict[str, str]], ...] = (
        ("number", _NUMBERS),
        ("picture", _PICTURES),
        ("histogram", _HISTOGRAMS),
    )
    for kind, by_probe in kinds:
        for probe, quantities in by_probe.items():
            keys |= {f"probe/{probe}/{quantity}": kind for quantity in quantities.split()}
    return keys
