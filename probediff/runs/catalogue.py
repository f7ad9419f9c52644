"""What every probe records: its quantities, their nulls, and where they are shown. Plain data.

Dashboards, reports, ``probediff runs`` and the table that ends a run read these and no lists of their own. A probe that
is not among them is described in its run's own folder, or by its names alone. P1 is *There and Back Again*.
"""

from probediff.runs.descriptions import Column, Description, Kind, quantities, settings

_TRIANGLE = (
    Column("at_noise_mean_deg", panel="Mean angles (deg)", in_table=True),
    Column("at_image_mean_deg", panel="Mean angles (deg)", in_table=True, listed_as="angle at image"),
    Column("at_latent_mean_deg", panel="Mean angles (deg)", in_table=True),
    Column("at_image_of_mean_cosine_deg", panel="Mean angles (deg)"),
    *quantities("at_noise_std_deg at_image_std_deg at_latent_std_deg", "Angles, standard deviation (deg)"),
    *quantities(
        "at_noise_most_probable_deg at_image_most_probable_deg at_latent_most_probable_deg",
        "Most probable angles (deg)",
    ),
    *quantities(
        "distance_noise_image_mean distance_image_latent_mean distance_noise_latent_mean",
        "Mean distances",
        in_table=True,
    ),
    *quantities(
        "distance_noise_image_std distance_image_latent_std distance_noise_latent_std",
        "Distances, standard deviation",
    ),
    *quantities("latent_mean latent_std", in_table=True),
    *quantities("latents triangle", kind="picture"),
    *quantities("at_noise_deg_histogram at_image_deg_histogram at_latent_deg_histogram", kind="histogram"),
)
_ASSIGNMENT = (
    Column("image_to_noise", null="null", panel="Accuracy", in_table=True, listed_as="image->noise"),
    Column("noise_to_image", null="null", panel="Accuracy", in_table=True, listed_as="noise->image"),
    *quantities(
        "image_to_noise_top5 noise_to_image_top5", "Accuracy, top 5", null="null", null_factor=5.0, in_table=True
    ),
    Column("null", panel="Accuracy", in_table=True),
    Column("largest_hub_share", null="null", in_table=True),
    *quantities("hubs_pixel_variance pixel_variance hubs_squared_norm_per_value squared_norm_per_value"),
    *quantities("hubs_squared_brightness squared_brightness"),
    *quantities("captures_pixel_variance_spearman captures_squared_norm_per_value_spearman"),
    *quantities("captures_squared_brightness_spearman"),
    Column("hubs", "picture"),
    Column("hubs_table", "table"),
)
_LARGEST = "Mean of the largest correlations"
_CORRELATION = (
    Column("noise", null="null", panel=_LARGEST),
    Column("latent", null="null", panel=_LARGEST, listed_as="latent corr"),
    Column("sample", null="null", panel=_LARGEST),
    Column("null", panel=_LARGEST),
    *settings("k"),
)
_SIMILARITIES = "cka cka_debiased svcca ssim *_cosine"
_TO_PREVIOUS = (*quantities(_SIMILARITIES, "Similarity to the previous checkpoint"), *settings("previous_step"))
_TO_FINAL = (*quantities(_SIMILARITIES, "Similarity to the final samples"), *settings("final_step"))
_NORMALITY = (
    *quantities("mean+ std+ ks_mean_distance+ ks_rejected_share+ shapiro_rejected_share+ norm_outside_share+"),
    *quantities("pixel_divergence+ squared_norm_per_value+ low_to_high_power+ patch_correlation+"),
    *quantities(
        "plain_area_inside plain_area_outside plain_area_inside_null plain_area_outside_null",
        "Inversion error inside and outside plain areas",
    ),
    Column("plain_area_plain_share"),
    *quantities("plain_area_ratio+"),
    *settings("plain_area_threshold shapiro_samples"),
)
_TRAJECTORY = (
    *quantities(
        "closest_to_latent_distance noise_latent_distance",
        "Distance to the latent: nearest, and from the noise",
    ),
    *quantities(
        "closest_to_latent_step_fraction closest_step_fraction latent_nearest_from_step_fraction",
        "Where the trajectory is nearest (share of sampling steps)",
    ),
    Column("closest_lambda"),
    Column("heatmap", "picture"),
)
_MAP = (
    *quantities("identity_share+ nearest_image_share nearest_noise_share"),
    *quantities("identity_gap+ nearest_image_gap nearest_noise_gap"),
    *quantities("image_hubness noise_hubness", null="hubness_null"),
    *quantities("hubness_null optimal_cost"),
    *settings("num_samples"),
)
_INTERPOLATION = (
    *quantities("midpoint_ssim+ path_length_noise path_length_latent midpoint_contrast_noise midpoint_contrast_latent"),
    *settings("num_pairs num_points"),
    Column("paths", "picture"),
)
_QUALITY = (
    *settings("num_samples kid_subset_size num_real *_fid_full_rank"),
    *quantities("*_fid+ *_kid+ *_kid_std+"),
)
_WHITENING = (
    *settings("num_excluded_directions* num_images num_fixed_points num_iterations"),
    *quantities("slope slope_gaussian zca_r2 zca_r2_gaussian noise_rms noise_rms_gaussian", in_table=True),
    *quantities("zca_r2_scaled zca_r2_scaled_gaussian significant_share", in_table=True),
    *quantities("slope_standard_error slope_unweighted power_law_r2 inverse_r2_scaled image_r2_scaled"),
    *quantities("*_gaussian residual_rms converged_share ridge timestep"),
)
_STRUCTURE = (
    Column("bandwidth", panel="Nearest exact denoiser", in_table=True, listed_as="bandwidth"),
    *quantities("bandwidth_low bandwidth_high", "Nearest exact denoiser"),
    *quantities("bandwidth_sigma_*", "Nearest exact denoiser by noise level"),
    *quantities("held_out_bandwidth_sigma_*", "Nearest exact denoiser by noise level, held-out images"),
    *quantities("r2+ linear_share+", in_table=True),
    *quantities("r2_error linear_share_error", "Standard errors"),
    *quantities("linear_share_sigma_*", "Share explained by the Gaussian, by noise level"),
    *quantities(
        "nearer_to_gaussian_from_sigma nearer_to_gaussian_to_sigma",
        "Noise levels nearer to the Gaussian than to the training set",
        in_table=True,
    ),
    # Of data sets with held-out images.
    *quantities("memorisation_z_sigma_*", "Memorisation beyond the Gaussian, in standard errors"),
    *quantities("memorisation_gap* memorisation_excess*", "Memorisation: R² on training images less held-out ones"),
    *quantities("memorisation_sigma*", "Noise level of the clearest memorisation"),
    *quantities("num_levels_identified"),
    *settings("num_images num_held_out_images num_training_images num_levels num_levels_left_out"),
    *settings("num_network_evaluations of_training_images mirrored"),
    Column("levels", "picture"),
    Column("levels_table", "table"),
)
_AS_PUBLISHED = (
    *quantities("at_noise_of_mean_cosine_deg at_noise_of_std_cosine_deg at_noise_most_probable_deg"),
    *quantities("at_image_of_mean_cosine_deg at_image_of_std_cosine_deg at_image_most_probable_deg"),
    *quantities("at_latent_of_mean_cosine_deg at_latent_of_std_cosine_deg at_latent_most_probable_deg"),
    *quantities("plain_share error_plain error_not_plain"),
    *settings("num_samples"),
)

_MEASURED = (
    Description(
        "fixed_noise_generation",
        "Samples of the same noises",
        "Fixed noise",
        (*quantities("sample_mean sample_std saturated_fraction"), Column("samples", "picture")),
    ),
    Description("inversion_angles", "The triangle of noise, sample and latent", "Triangle", _TRIANGLE),
    Description("assignment_accuracy", "Assigning samples to noises and back", "Assignment", _ASSIGNMENT),
    Description("pixel_correlation", "Correlated pixels", "Correlation", _CORRELATION),
    Description(
        "checkpoint_similarity", "Similarity to the samples of the previous checkpoint", "Similarity", _TO_PREVIOUS
    ),
    Description("latent_normality", "Normality of the latents", "Normality", _NORMALITY),
    Description("trajectory_heatmap", "Distance of the trajectory to the noise-latent line", "Trajectory", _TRAJECTORY),
    Description("noise_image_map", "The noise-image map and optimal transport", "Map", _MAP),
)
_ON_DEMAND = (
    Description("latent_interpolation", "Interpolation between latents", "Map", _INTERPOLATION, is_default=False),
    Description("sample_quality", "Sample quality", "Quality", _QUALITY, is_default=False),
    Description("denoiser_structure", "Exact denoisers", "Structure", _STRUCTURE, is_default=False),
    Description("whitening", "De-whitening", "Whitening", _WHITENING, is_default=False),
    Description("paper_compat", "As the authors of P1 computed it", "Paper compat", _AS_PUBLISHED, is_default=False),
)
_AT_THE_END = (
    Description(
        "fixed_noise_generation_final", "Samples over training", "Fixed noise", (Column("over_training", "picture"),)
    ),
    Description("checkpoint_similarity_final", "Similarity to the final samples", "Similarity", _TO_FINAL),
    # Of an exact denoiser: its samples and those of the run's final network.
    Description(
        "network_similarity",
        "Similarity to the network",
        "Similarity",
        (*_TO_FINAL, *quantities("r2+ r2_standard_error")),
        is_default=False,
    ),
    Description(
        "paper_compat_final",
        "Similarity to the final samples as the authors of P1 computed it",
        "Paper compat",
        quantities("cka_min_max cka_unbiased_min_max svcca_randomised ssim_min_max"),
        is_default=False,
    ),
)
_TIMES = tuple(
    Column(f"{name}_seconds", panel="Time of a probe event (s)", in_table=name == "pass")
    for name in (*sorted(["event", "pass", *(probe.key for probe in _MEASURED)]), "*")
)
_TRAINING = (Column("loss_mean", panel="Loss", listed_as="loss"), Column("steps_per_second"))
_WORK = (
    Description("train", "Loss of single steps", "Training", quantities("loss", "Loss")),
    Description("training", "Loss and speed since the last checkpoint", "Training", _TRAINING),
    Description("pass", "The shared pass", "Training", quantities("network_evaluations"), is_bookkeeping=True),
    Description("timing", "Time of a probe event", "Training", _TIMES, is_bookkeeping=True),
    Description("run", "The end of a run", "Training", settings("last_step"), is_bookkeeping=True),
)

#: What probes and a run itself record, by name.
PROBES = {probe.key: probe for probe in (*_WORK, *_MEASURED, *_ON_DEMAND, *_AT_THE_END)}


def default_keys() -> dict[str, Kind]:
    """Every key that a run logs to W&B with all probes at their defaults, and what is under it."""
    keys: dict[str, Kind] = {"epoch": "number", "trainer/global_step": "number"}
    for probe in (probe for probe in PROBES.values() if probe.is_default):
        prefix = probe.key if probe.key == "train" else f"probe/{probe.key}"
        keys |= {f"{prefix}/{column.key}": column.kind for column in probe.columns if "*" not in column.key}
    return keys
