"""Which panel shows which key: sections and panels as plain data, derived from the keys by rules.

A key that no rule names still gets its panel: keys of one probe share one when they differ only in the thing that is
measured (``noise_hubness``, ``image_hubness``) or in being the null of the other (``hubness_null``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from probediff.runs.catalogue import Kind

#: The axis of every curve.
STEP_KEY = "trainer/global_step"

#: Probes by section; a probe that is not named has a section of its own. Results at the end of a run join their probe.
SECTIONS = {
    "Training": ("train", "training", "timing", "pass"),
    "Fixed noise": ("fixed_noise_generation",),
    "Triangle": ("inversion_angles",),
    "Assignment": ("assignment_accuracy",),
    "Correlation": ("pixel_correlation",),
    "Similarity": ("checkpoint_similarity",),
    "Normality": ("latent_normality",),
    "Trajectory": ("trajectory_heatmap",),
    "Map": ("noise_image_map", "latent_interpolation"),
    "Quality": ("sample_quality",),
}

#: Sections whose interest is not early in training.
LINEAR_SECTIONS = frozenset({"Training"})

#: Keys that share a panel, by ``<probe>/<quantity>``, and its title; the first match counts.
TOGETHER = (
    (r"train/loss|training/loss_mean", "Loss"),
    (r"timing/\w+_seconds", "Time of a probe event (s)"),
    (r"inversion_angles/at_\w+_mean(_cosine)?_deg", "Mean angles (deg)"),
    (r"inversion_angles/at_\w+_most_probable_deg", "Most probable angles (deg)"),
    (r"inversion_angles/at_\w+_std_deg", "Angles, standard deviation (deg)"),
    (r"inversion_angles/distance_\w+_mean", "Mean distances"),
    (r"inversion_angles/distance_\w+_std", "Distances, standard deviation"),
    (r"assignment_accuracy/(image_to_noise|noise_to_image|null)", "Accuracy"),
    (r"assignment_accuracy/\w+_top5", "Accuracy, top 5"),
    (r"pixel_correlation/(noise|latent|sample|null)", "Mean of the largest correlations"),
    (r"checkpoint_similarity/\w+", "Similarity to the previous checkpoint"),
    (r"checkpoint_similarity_final/\w+", "Similarity to the final samples"),
    (r"latent_normality/plain_area_(inside|outside)(_null)?", "Inversion error inside and outside plain areas"),
    (r"trajectory_heatmap/\w+_distance", "Distance to the latent: nearest, and from the noise"),
    (r"trajectory_heatmap/\w+_step_fraction", "Where the trajectory is nearest (share of sampling steps)"),
)

#: Keys that no panel shows: W&B's own, the axis, and settings that probes repeat beside their results.
BOOKKEEPING = re.compile(
    r"_.*|epoch|trainer/global_step|probe/run/last_step|probe/pixel_correlation/k|"
    r"probe/\w+/(previous_step|final_step|num_\w+|shapiro_samples|plain_area_threshold|kid_subset_size|\w+_full_rank)"
)

#: Words of a quantity that say what is measured and not which measure it is.
_SUBJECTS = frozenset({"noise", "image", "latent", "sample", "hubs", "null"})
_SPELLED = {"deg": "(deg)", "seconds": "(s)", "std": "standard deviation"} | {
    word: word.upper() for word in ("cka", "fid", "kid", "ks", "ssim", "svcca")
}
_TITLES = frozenset(title for _, title in TOGETHER)
_ORDER: tuple[Kind, ...] = ("picture", "number", "histogram")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: its heading.
        kind: ``number`` for curves over training steps, ``picture`` with a step slider, or ``histogram``.
        keys: what it shows; one key unless it shows curves.
        log_x: whether the training steps are on a logarithmic axis (which leaves out step 0).
        name: what identifies it when a dashboard is updated, whatever its keys are.
    """

    title: str
    kind: Kind
    keys: tuple[str, ...]
    log_x: bool
    name: str


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def specification(keys: Mapping[str, Kind]) -> list[Section]:
    """The dashboard for ``keys``: every one that is no bookkeeping is in exactly one panel."""
    members: dict[str, dict[tuple[Kind, str], list[str]]] = {title: {} for title in SECTIONS}
    for key, kind in sorted(keys.items(), key=lambda item: _ORDER.index(item[1])):
        if not BOOKKEEPING.fullmatch(key):
            probe, quantity = _parts(key)
            name = _shared_name(probe, quantity) if kind == "number" else f"{probe}/{quantity}"
            members.setdefault(_section(probe), {}).setdefault((kind, name), []).append(key)
    return [
        Section(title, tuple(_panel(title, kind, name, found) for (kind, name), found in panels.items()))
        for title, panels in members.items()
        if panels
    ]


def _parts(key: str) -> tuple[str, str]:
    """``probe/inversion_angles/latent_std`` -> ``inversion_angles``, ``latent_std``; ``train/loss`` -> itself."""
    probe, _, quantity = key.removeprefix("probe/").partition("/")
    return probe, quantity or probe


def _section(probe: str) -> str:
    base = probe.removesuffix("_final")
    return next((title for title, probes in SECTIONS.items() if base in probes), _in_words(base))


def _shared_name(probe: str, quantity: str) -> str:
    """Equal for the quantities that share a panel."""
    for pattern, title in TOGETHER:
        if re.fullmatch(pattern, f"{probe}/{quantity}"):
            return title
    return f"{probe}/" + "_".join(word for word in quantity.split("_") if word not in _SUBJECTS)


def _panel(section: str, kind: Kind, name: str, keys: list[str]) -> Panel:
    probe, quantity = _parts(keys[0])
    if kind == "number" and len(keys) > 1:
        quantity = name.partition("/")[2] or probe
    title = name if name in _TITLES else _in_words(quantity.removesuffix("_histogram"))
    log_x = kind == "number" and section not in LINEAR_SECTIONS
    return Panel(title, kind, tuple(keys), log_x, f"{section}/{kind}/{name}")


def _in_words(name: str) -> str:
    """``at_noise_deg`` -> ``At noise (deg)``."""
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]
