"""What every probe records: its quantities, their nulls, and where they are shown. Plain data.

Dashboards, reports, ``probediff runs`` and the table that ends a run read these and no lists of their own. A probe that
is not among them is described in its run's own folder, or by its names alone. P1 is *There and Back Again*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, get_args

T = TypeVar("T")

#: What is under a key.
Kind = Literal["number", "picture", "histogram", "table"]
_NULL = "_null"
_UNITS = {"deg": "degrees", "seconds": "seconds", "share": "share"}


@dataclass(frozen=True)
class Column:
    """One quantity of a probe.

    Attributes:
        key: its name in the records; ``*`` stands for the name of a feature network, or of any probe.
        kind: what it is.
        null: key of what chance gives; empty where nothing does, or where its name follows from the key.
        null_factor: how many times that chance gives.
        is_setting: whether it says how something was measured, so that no curve shows it.
        in_table: whether the table at the end of a run shows it.
        listed_as: heading under which ``probediff runs`` shows its last value; empty for not at all.
        panel: title of the panel that a dashboard shows several quantities in; empty where their names decide.
    """

    key: str
    kind: Kind = "number"
    null: str = ""
    null_factor: float = 1.0
    is_setting: bool = False
    in_table: bool = False
    listed_as: str = ""
    panel: str = ""

    @property
    def unit(self) -> str:
        """The unit in words, by the end of the key."""
        return _UNITS.get(self.key.rpartition("_")[2], "value")


@dataclass(frozen=True)
class Description:
    """What one probe records.

    Attributes:
        key: name of the probe in the records.
        title: what it is about, in one line.
        section: heading on a dashboard.
        columns: its quantities, as a dashboard orders them.
        is_default: whether it is recorded unless switched off.
        is_bookkeeping: whether it is about the work of probing, and no measurement.
    """

    key: str
    title: str = ""
    section: str = ""
    columns: tuple[Column, ...] = ()
    is_default: bool = True
    is_bookkeeping: bool = False

    def column(self, key: str) -> Column:
        """The column of a key, by the rules for names where the probe's description lacks it."""
        matches = (column for column in self.columns if fnmatchcase(key, column.key))
        return next(matches, Column(key, is_setting=key.startswith("num_")))

    def extended(self, kinds: Mapping[str, Kind]) -> Description:
        """The description with the keys that it lacks."""
        lacking = [key for key in kinds if not any(fnmatchcase(key, column.key) for column in self.columns)]
        return replace(self, columns=(*self.columns, *(replace(self.column(key), kind=kinds[key]) for key in lacking)))

    def null_of(self, key: str, keys: Iterable[str]) -> str:
        """Which of ``keys`` chance gives instead of ``key``: ``hubness_null`` for ``image_hubness``; empty for none."""
        shared = key.partition("_")[2] + _NULL
        named = (self.column(key).null, key + _NULL, shared)
        return next((name for name in named if name in keys), "")

    @property
    def log_steps(self) -> bool:
        """Whether its interest is early in training, so that curves have a logarithmic axis of steps."""
        return self.section != "Training"

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self) | {"columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Description:
        """The description that ``to_json`` gave; raises some error of types, names or values for anything else."""
        return _of_types(cls(**entry | {"columns": tuple(_of_types(Column(**column)) for column in entry["columns"])}))


def _of_types(entry: T) -> T:
    """The same, or a TypeError for a part of another type than its default has."""
    for field in fields(entry):  # type: ignore[arg-type]
        value, kind = getattr(entry, field.name), str if field.default is MISSING else type(field.default)
        allowed = {"kind": value in get_args(Kind), "null_factor": isinstance(value, int | float)}
        if not allowed.get(field.name, isinstance(value, kind)):
            raise TypeError(f"{field.name} must be a {kind.__name__}, got {str(value)[:40]!r}")
    return entry


def _quantities(keys: str, panel: str = "", **shared: Any) -> tuple[Column, ...]:
    """Columns alike but for their keys; ``x+`` stands for ``x`` and its null ``x_null``."""
    parts = (part for key in keys.split() for part in ((key[:-1], key[:-1] + _NULL) if key[-1] == "+" else (key,)))
    return tuple(Column(key, panel=panel, **shared) for key in parts)


def _settings(keys: str) -> tuple[Column, ...]:
    return _quantities(keys, is_setting=True)


_TRIANGLE = (
    Column("at_noise_mean_deg", panel="Mean angles (deg)", in_table=True),
    Column("at_image_mean_deg", panel="Mean angles (deg)", in_table=True, listed_as="angle at image"),
    Column("at_latent_mean_deg", panel="Mean angles (deg)", in_table=True),
    Column("at_image_of_mean_cosine_deg", panel="Mean angles (deg)"),
    *_quantities("at_noise_std_deg at_image_std_deg at_latent_std_deg", "Angles, standard deviation (deg)"),
    *_quantities(
        "at_noise_most_probable_deg at_image_most_probable_deg at_latent_most_probable_deg",
        "Most probable angles (deg)",
    ),
    *_quantities(
        "distance_noise_image_mean distance_image_latent_mean distance_noise_latent_mean",
        "Mean distances",
        in_table=True,
    ),
    *_quantities(
        "distance_noise_image_std distance_image_latent_std distance_noise_latent_std",
        "Distances, standard deviation",
    ),
    *_quantities("latent_mean latent_std", in_table=True),
    *_quantities("latents triangle", kind="picture"),
    *_quantities("at_noise_deg_histogram at_image_deg_histogram at_latent_deg_histogram", kind="histogram"),
)
_ASSIGNMENT = (
    Column("image_to_noise", null="null", panel="Accuracy", in_table=True, listed_as="image->noise"),
    Column("noise_to_image", null="null", panel="Accuracy", in_table=True, listed_as="noise->image"),
    *_quantities(
        "image_to_noise_top5 noise_to_image_top5", "Accuracy, top 5", null="null", null_factor=5.0, in_table=True
    ),
    Column("null", panel="Accuracy", in_table=True),
    Column("largest_hub_share", null="null", in_table=True),
    *_quantities("hubs_pixel_variance pixel_variance hubs_squared_norm_per_value squared_norm_per_value"),
    *_quantities("captures_pixel_variance_spearman captures_squared_norm_per_value_spearman"),
    Column("hubs", "picture"),
    Column("hubs_table", "table"),
)
_LARGEST = "Mean of the largest correlations"
_CORRELATION = (
    Column("noise", null="null", panel=_LARGEST),
    Column("latent", null="null", panel=_LARGEST, listed_as="latent corr"),
    Column("sample", null="null", panel=_LARGEST),
    Column("null", panel=_LARGEST),
    *_settings("k"),
)
_SIMILARITIES = "cka cka_debiased svcca ssim *_cosine"
_TO_PREVIOUS = (*_quantities(_SIMILARITIES, "Similarity to the previous checkpoint"), *_settings("previous_step"))
_TO_FINAL = (*_quantities(_SIMILARITIES, "Similarity to the final samples"), *_settings("final_step"))
_NORMALITY = (
    *_quantities("mean+ std+ ks_mean_distance+ ks_rejected_share+ shapiro_rejected_share+ norm_outside_share+"),
    *_quantities("pixel_divergence+ squared_norm_per_value+ low_to_high_power+ patch_correlation+"),
    *_quantities(
        "plain_area_inside plain_area_outside plain_area_inside_null plain_area_outside_null",
        "Inversion error inside and outside plain areas",
    ),
    Column("plain_area_plain_share"),
    *_settings("plain_area_threshold shapiro_samples"),
)
_TRAJECTORY = (
    *_quantities(
        "closest_to_latent_distance noise_latent_distance",
        "Distance to the latent: nearest, and from the noise",
    ),
    *_quantities(
        "closest_to_latent_step_fraction closest_step_fraction latent_nearest_from_step_fraction",
        "Where the trajectory is nearest (share of sampling steps)",
    ),
    Column("closest_lambda"),
    Column("heatmap", "picture"),
)
_MAP = (
    *_quantities("identity_share+ nearest_image_share nearest_noise_share"),
    *_quantities("identity_gap+ nearest_image_gap nearest_noise_gap"),
    *_quantities("image_hubness noise_hubness", null="hubness_null"),
    *_quantities("hubness_null optimal_cost"),
    *_settings("num_samples"),
)
_INTERPOLATION = (
    *_quantities(
        "midpoint_ssim+ path_length_noise path_length_latent midpoint_contrast_noise midpoint_contrast_latent"
    ),
    *_settings("num_pairs num_points"),
    Column("paths", "picture"),
)
_QUALITY = (
    *_settings("num_samples kid_subset_size num_real *_fid_full_rank"),
    *_quantities("*_fid+ *_kid+ *_kid_std+"),
)
_WHITENING = (
    *_settings("num_excluded_directions* num_images num_fixed_points num_iterations"),
    *_quantities("slope slope_gaussian zca_r2 zca_r2_gaussian noise_rms noise_rms_gaussian", in_table=True),
    *_quantities("zca_r2_scaled zca_r2_scaled_gaussian significant_share", in_table=True),
    *_quantities("slope_standard_error slope_unweighted power_law_r2 inverse_r2_scaled image_r2_scaled"),
    *_quantities("*_gaussian residual_rms converged_share ridge timestep"),
)
_AS_PUBLISHED = (
    *_quantities("at_noise_of_mean_cosine_deg at_noise_of_std_cosine_deg at_noise_most_probable_deg"),
    *_quantities("at_image_of_mean_cosine_deg at_image_of_std_cosine_deg at_image_most_probable_deg"),
    *_quantities("at_latent_of_mean_cosine_deg at_latent_of_std_cosine_deg at_latent_most_probable_deg"),
    *_quantities("plain_share error_plain error_not_plain"),
    *_settings("num_samples"),
)

_MEASURED = (
    Description(
        "fixed_noise_generation",
        "Samples of the same noises",
        "Fixed noise",
        (*_quantities("sample_mean sample_std saturated_fraction"), Column("samples", "picture")),
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
        (*_TO_FINAL, *_quantities("r2+ r2_standard_error")),
        is_default=False,
    ),
    Description(
        "paper_compat_final",
        "Similarity to the final samples as the authors of P1 computed it",
        "Paper compat",
        _quantities("cka_min_max cka_unbiased_min_max svcca_randomised ssim_min_max"),
        is_default=False,
    ),
)
_TIMES = tuple(
    Column(f"{name}_seconds", panel="Time of a probe event (s)", in_table=name == "pass")
    for name in (*sorted(["event", "pass", *(probe.key for probe in _MEASURED)]), "*")
)
_TRAINING = (Column("loss_mean", panel="Loss", listed_as="loss"), Column("steps_per_second"))
_WORK = (
    Description("train", "Loss of single steps", "Training", _quantities("loss", "Loss")),
    Description("training", "Loss and speed since the last checkpoint", "Training", _TRAINING),
    Description("pass", "The shared pass", "Training", _quantities("network_evaluations"), is_bookkeeping=True),
    Description("timing", "Time of a probe event", "Training", _TIMES, is_bookkeeping=True),
    Description("run", "The end of a run", "Training", _settings("last_step"), is_bookkeeping=True),
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
