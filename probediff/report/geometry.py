"""Where the latent lies: pictures, triangle, way of the samplers, over training.

F1 to F4 are figures of P1, *There and Back Again*.
"""

import numpy as np

from probediff.pictures import is_triangle
from probediff.report.drawings import HeatMap, draw_heat_maps, draw_triangles
from probediff.report.groups import Comparison, last_estimate, members, of_kind
from probediff.report.measured import last_table, measured_groups, newest_pictures, over_training
from probediff.report.panels import Quantity
from probediff.report.parts import Figure, Section, how_computed, missing_from
from probediff.report.published import ANGLES, PASSES_LATENT
from probediff.report.records import ProbeRecords

_ANGLES, _TRAJECTORY = "inversion_angles", "trajectory_heatmap"
_VERTICES = (("noise", "noise"), ("image", "sample"), ("latent", "latent"))
_SIDES = (("noise_image", "noise-sample"), ("image_latent", "sample-latent"), ("noise_latent", "noise-latent"))
_PASSED = "closest_to_latent_step_fraction"
_CLOSEST = {
    _PASSED: "nearest to the latent after this share of steps",
    "closest_to_latent_distance": "mean distance to the latent there (L2)",
    "noise_latent_distance": "mean distance of noise and latent (L2), the null of that",
    "closest_step_fraction": "nearest to the line, in proportion to the distance from the noise: share of steps",
    "closest_lambda": "nearest to the line, in proportion to the distance from the noise: λ",
    "latent_nearest_from_step_fraction": "the latent is the nearest point of the line from this share on",
}
_ANGLES_OVER_TRAINING = (
    *(Quantity(_ANGLES, f"at_{vertex}_mean_deg", f"angle at the {word}", "degrees") for vertex, word in _VERTICES),
    *(Quantity(_ANGLES, f"distance_{side}_mean", f"distance {word}", "mean L2") for side, word in _SIDES),
)


def pictures(comparison: Comparison) -> Section:
    """Samples, latents and latent minus noise (F1)."""
    figures = newest_pictures(
        comparison,
        f"{_ANGLES}.latents",
        "f1_pictures",
        ". Rows: samples in [-1, 1]; latents, grey at 0, shown from -3 to 3; latent minus noise, from -2 to 2.",
        "Three rows of images of {}: samples, their latents, and latents minus noise.",
        ["sample", "latent", "latent - noise"],
    )
    names = {figure.name for figure in figures}
    missing = [
        f"{run.name} has no picture of latents."
        for index, _, run in comparison.first_runs()
        if f"f1_pictures_{index}" not in names
    ]
    text = (
        "Latents made by inverting the model's own samples, beside the samples. Structure of the images in the "
        "latents, or in latent minus noise, is inversion error; P1 finds it largest in flat areas (figure 1)."
        + (f" {how_computed(comparison, _ANGLES)}" if figures else "")
    )
    title = "Samples, latents and latent minus noise (F1)"
    return Section("pictures", title, (text,), tuple(figures), missing=tuple(missing))


def triangle(comparison: Comparison) -> Section:
    """The triangle to scale and its angles (F2)."""
    title, missing = "The noise-sample-latent triangle (F2)", missing_from(comparison, _ANGLES)
    triangles = {}
    for label, kind, group in measured_groups(comparison, _ANGLES):
        keys = (f"at_{vertex}_most_probable_deg" for vertex, _ in _VERTICES)
        at_noise, at_sample, at_latent = (last_estimate(group, of_kind(kind, _ANGLES, key)) for key in keys)
        if at_noise and at_sample and at_latent:
            angles = (at_noise.mean, at_sample.mean, at_latent.mean)
            if is_triangle(angles):
                triangles[label] = angles
            else:
                missing += (f"{label}: no triangle has the most probable angles {angles}.",)
    if not triangles:
        return Section("triangle", title, missing=missing)
    words = "; ".join(
        f"{label}: {angles[0]:.1f} degrees at the noise, {angles[1]:.1f} at the sample, {angles[2]:.1f} at the latent"
        for label, angles in triangles.items()
    )
    caption = (
        "Triangles at the most probable angles, drawn to scale, at the last step; means over runs where there are "
        "several. P1 reports an acute angle at the sample and an obtuse one at the latent. "
        + how_computed(comparison, _ANGLES)
    )
    figure = Figure("f2_triangle", draw_triangles(triangles), caption, f"Triangles. {words}.")
    rows: list[tuple[str, str, int, str | None]] = []
    for vertex, word in _VERTICES:
        rows.append((f"angle at the {word}, mean [°]", f"at_{vertex}_mean_deg", 1, ANGLES[vertex]))
        rows.append((f"angle at the {word}, spread over samples [°]", f"at_{vertex}_std_deg", 1, None))
        rows.append((f"angle at the {word}, most probable [°]", f"at_{vertex}_most_probable_deg", 1, None))
    rows += [(f"distance {word}, mean (L2)", f"distance_{side}_mean", 2, None) for side, word in _SIDES]
    rows.append(("latent, mean over all values", "latent_mean", 4, None))
    rows.append(("latent, std over all values (noise: 1)", "latent_std", 4, None))
    caption = "Angles and sides of the triangle at the last step"
    table = last_table(comparison, _ANGLES, "f2_angles", caption, rows, ["published, all models (in words)"])
    return Section("triangle", title, (), (figure,), (table,), missing)


def heat_map(comparison: Comparison) -> Section:
    """How close the sampling trajectory comes to the way from noise to latent (F3)."""
    maps: dict[str, HeatMap] = {}
    missing = list(missing_from(comparison, _TRAJECTORY))
    for group in comparison.groups:
        stored = [arrays for run in group.runs if (arrays := _stored_map(run.own)) is not None]
        alike = [arrays for arrays in stored if all(a.shape == b.shape for a, b in zip(arrays, stored[0], strict=True))]
        if alike:
            mean = np.mean([distance for distance, _, _ in alike], axis=0)
            maps[group.label + (f", mean of {len(alike)} runs" if len(alike) > 1 else "")] = (mean, *alike[0][1:])
        elif any(run.own.values(_TRAJECTORY) for run in group.runs):
            missing.append(f"{group.label}: no stored heat map.")
    rows = [
        (_CLOSEST.get(key, key), key, 3, "-".join(map(str, PASSES_LATENT)) if key == _PASSED else None)
        for key in comparison.keys(_TRAJECTORY)
    ]
    caption = "Where the trajectory comes closest, at the last step"
    published = ["published, all models"]
    exact = _exact_maps(comparison)
    table = last_table(comparison, _TRAJECTORY, "f3_closest", caption, rows, published, with_exact=bool(exact))
    figures: tuple[Figure, ...] = ()
    if maps:
        caption = (
            "Mean L2 distance between x_t on the sampling trajectory and (1 - λ) noise + λ latent; light is close. "
            f"{how_computed(comparison, _TRAJECTORY)}"
        )
        closest = "; ".join(f"{label}: {_closest(*arrays)}" for label, arrays in maps.items())
        alt = f"Heat maps over share of sampling steps and lambda. {closest}"
        figures = (Figure("f3_heat_map", draw_heat_maps(maps), caption, alt),)
    if exact:
        caption = "The same of exact denoisers of the images, whose distribution is known; see section Exact denoisers."
        closest = "; ".join(f"{label}: {_closest(*arrays)}" for label, arrays in exact.items())
        figures += (Figure("f3_exact", draw_heat_maps(exact), caption, f"Heat maps of exact denoisers. {closest}"),)
    title = "Distance of the trajectory to the noise-latent line (F3)"
    return Section("trajectory", title, _passing(comparison), figures, (table,) if rows else (), tuple(missing))


def _exact_maps(comparison: Comparison) -> dict[str, HeatMap]:
    """Those of the exact denoisers of each group, of its first run that has them."""
    maps = {}
    for group in comparison.groups:
        for member in members(group):
            folders = [records for run in group.runs if (records := run.like_own(member.kind))]
            stored = next((arrays for records in folders if (arrays := _stored_map(records)) is not None), None)
            if stored is not None:
                maps[comparison.exact_label(group, f"exact, {member.label}")] = stored
    return maps


def _passing(comparison: Comparison) -> tuple[str, ...]:
    """When each group passes the latent, beside P1's range; a value outside of it is told like one inside."""
    low, high = PASSES_LATENT
    sentences = []
    for group in comparison.groups:
        if share := last_estimate(group, of_kind("own", _TRAJECTORY, _PASSED, 100), 0):
            agrees = "within" if low <= share.mean / 100 <= high else "outside of"
            sentences.append(f"{group.label}: nearest to the latent after {share} % of the steps, {agrees} that.")
    words = f"P1 finds that x_t passes the latent after {100 * low:.0f} to {100 * high:.0f} % of the steps (figure 3)."
    return (" ".join([words, *sentences]),) if sentences else ()


def _closest(distance: np.ndarray, share: np.ndarray, lambdas: np.ndarray) -> str:
    at_latent = distance[:, int(np.abs(lambdas - 1).argmin())]
    return f"closest to the latent after a share of {share[int(at_latent.argmin())]:.2f} of the steps"


def _stored_map(records: ProbeRecords) -> HeatMap | None:
    arrays = records.folder.newest_arrays(_TRAJECTORY) if _TRAJECTORY in records.probe_names() else {}
    if not {"mean_distance", "step_fraction", "lambdas"} <= set(arrays):
        return None
    distance, share, lambdas = arrays["mean_distance"], arrays["step_fraction"], arrays["lambdas"]
    fits = distance.size > 0 and distance.shape == share.shape + lambdas.shape and share.ndim == lambdas.ndim == 1
    fits = fits and bool(np.isfinite(share).all() and np.isfinite(lambdas).all())
    return (distance, share, lambdas) if fits else None


def angles_over_training(comparison: Comparison) -> Section:
    """Angles and distances against the training step (F4)."""
    final = (
        "Samples of the final model, inverted by every checkpoint, as in P1. Means over samples. Noises and samples "
        "are the same at every step here, so that the distance noise-sample cannot change."
    )
    figures = over_training(comparison, "f4_final_samples", _ANGLES_OVER_TRAINING, final, "final_samples")
    each = "Each checkpoint's own samples, inverted by itself. Means over samples."
    figures += over_training(comparison, "f4_own_samples", _ANGLES_OVER_TRAINING, each)
    missing = missing_from(comparison, _ANGLES, "final_samples") + missing_from(comparison, _ANGLES)
    text = "P1 finds that the angle at the sample and the distance between sample and noise settle early (figure 4)."
    return Section("over-training", "Angles and distances over training (F4)", (text,), figures, (), missing)
