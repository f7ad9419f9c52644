"""From noise to image and back: assignment, when the map settles, hubs.

T2 and F5 to F8 are a table and figures of P1, *There and Back Again*.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from probediff.report.drawings import draw_picture, read_picture
from probediff.report.groups import Comparison, Estimate, Group, Member, combine, members
from probediff.report.measured import evenly, last_table, newest_pictures, over_training
from probediff.report.panels import Quantity
from probediff.report.parts import Figure, Section, how_computed, missing_from
from probediff.report.published import published_estimate, published_for, published_note
from probediff.report.records import TO_NETWORK, Measured, ProbeRecords, differing_in_words
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table, tell_spread

_ASSIGNMENT, _FINAL = "assignment_accuracy", "checkpoint_similarity_final"
_WAYS = (("image_to_noise", "sample → noise"), ("noise_to_image", "noise → sample"))
_LIKENESS = {"r2": "R²", "r2_standard_error": "standard error", "r2_null": "R², null"}
_LIKENESS |= {"cka_debiased": "CKA, debiased", "svcca": "SVCCA", "ssim": "SSIM"}
_SIMILARITIES = {"cka": "CKA", "cka_debiased": "CKA, debiased", "svcca": "SVCCA", "ssim": "SSIM"}
#: What sets rows apart beside the number of steps, and P1's N.
_DIFFERING = {1: "convention", 2: "N"}
_N = 1000
_MOST_ROWS, _SAMPLES_A_ROW, _TILE_PX = 10, 12, 64

#: Number of DDIM steps, convention and N.
Setting = tuple[int, str, int]
_SETTING = ("num_steps", "convention", "num_samples")


def assignment_table(comparison: Comparison) -> Section:
    """Accuracy both ways for each number of steps (T2)."""
    name, title = "assignment", "Assigning samples to noises and noises to samples (T2)"
    missing = missing_from(comparison, _ASSIGNMENT) + _left_out(comparison)
    settings = {s for run in comparison.runs for r in _folders(run) if (s := _setting(r)) is not None}
    if not settings:
        return Section(name, title, missing=missing)
    text = (
        f"Each sample is assigned to its nearest noise, and each noise to its nearest sample. "
        f"{published_note(comparison.data)} {how_computed(comparison, _ASSIGNMENT)} "
        f"More numbers of steps appear here once `probediff probe` has replayed a run with them."
    )
    return Section(name, title, (text,), (), (_accuracy_table(comparison, settings),), missing)


def _accuracy_table(comparison: Comparison, settings: set[Setting]) -> Table:
    published, _ = published_for(comparison.data)
    differing = [k for k in (1, 2) if len({setting[k] for setting in settings}) > 1]
    with_gaussian = [g for g in comparison.groups if any(r.kind == "gaussian" for run in g.runs for r in _folders(run))]
    columns = [("own", group, group.label) for group in comparison.groups]
    columns += [("gaussian", group, comparison.gaussian_label(group)) for group in with_gaussian]
    columns += [
        (member.kind, group, comparison.exact_label(group, f"exact, {member.label}"))
        for group in comparison.groups
        for member in members(group, *_SETTING)
        if member.kind != "gaussian"
    ]
    rows: list[tuple[Cell, ...]] = []
    # P1 used the convention of OpenAI's code; its numbers of steps stand here for comparison.
    of_published = {(n, "openai", _N) for n in published.assignment if n not in {setting[0] for setting in settings}}
    for setting in sorted(settings | of_published):
        cells = [_accuracy(group, kind, setting, key) for kind, group, _ in columns for key, _ in _WAYS]
        values = published.assignment.get(setting[0], (None, None))
        known = [value and published_estimate(value, 1) for value in values]
        label = ", ".join(str(setting[k]) for k in (0, *differing))
        rows.append((label, *cells, _null(comparison, setting), *known))
    header = (
        ", ".join(("DDIM steps", *(_DIFFERING[k] for k in differing))),
        *(f"{label}: {way}" for _, _, label in columns for _, way in _WAYS),
        "null 1/N",
        *(f"published, {published.data}: {way}" for _, way in _WAYS),
    )
    caption = f"Nearest-neighbour (L2) assignment accuracy in per cent at the last step; {tell_spread(rows)}."
    return Table("t2_assignment", caption, header, tuple(rows))


def _folders(run: Run) -> list[ProbeRecords]:
    """The run's own records first, then replays, other numbers of steps of a model, exact denoisers.

    Only what was made as the run's own apart from steps, convention and N.
    """
    alike = [r for r in _replays(run) if not _differing(run, r)]
    return [run.own, *(r.without(r.other_options(run.own)) for r in alike), *run.exact(*_SETTING)]


def _replays(run: Run) -> list[ProbeRecords]:
    return [*run.of_kind("replay"), *run.of_kind("model")]


def _differing(run: Run, records: ProbeRecords) -> dict[str, tuple[Any, Any]]:
    """What of the settings apart from steps, convention and N is not as in the run's own records."""
    return {key: pair for key, pair in records.differing_from(run.own).items() if key not in _SETTING}


def _left_out(comparison: Comparison) -> tuple[str, ...]:
    """Replays that stand in no table, with why."""
    folders = [(run, records) for run in comparison.runs for records in _replays(run)]
    return tuple(
        f"{'/'.join([run.name, *records.folder.path.parts[-2:]])} is left out: {differing_in_words(differing)}."
        for run, records in folders
        if records.values(_ASSIGNMENT) and (differing := _differing(run, records))
    )


def _setting(records: ProbeRecords) -> Setting | None:
    num_steps, convention, num_samples = (records.convention(key) for key in _SETTING)
    known = None not in (num_steps, num_samples) and records.values(_ASSIGNMENT)
    return (num_steps, str(convention), num_samples) if known else None


def _last_at(run: Run, kind: str, setting: Setting, key: str) -> Measured | None:
    alike = [r for r in _folders(run) if (r.kind if r.is_exact else "own") == kind and _setting(r) == setting]
    series = next((series for records in alike if (series := records.measured_series(_ASSIGNMENT, key))), {})
    return list(series.values())[-1] if series else None


def _accuracy(group: Group, kind: str, setting: Setting, key: str) -> Estimate | None:
    numbers = (_last_at(run, kind, setting, key) for run in group.runs)
    return combine((number.scaled(100) for number in numbers if number is not None), 1)


def _null(comparison: Comparison, setting: Setting) -> Estimate | None:
    every = (_last_at(run, kind, setting, "null") for run in comparison.runs for kind in ("own", "gaussian"))
    nulls = {null.value for null in every if null is not None and null.value}
    return Estimate(100 * nulls.pop(), None, 1, 2) if len(nulls) == 1 else None


def assignment_curves(comparison: Comparison) -> Section:
    """The same accuracies against the training step (F5)."""
    published, is_same = published_for(comparison.data)
    steps = {run.own.convention("num_steps") for run in comparison.runs}
    same = published.assignment.get(next(iter(steps))) if is_same and len(steps) == 1 else None
    levels = [mean for mean, _ in same] if same else [None, None]
    quantities = [
        Quantity(_ASSIGNMENT, key + top, way + among, "accuracy [%]", 100, level, (-3, 103), is_described=not top)
        for top, among in (("", ""), ("_top5", ", among the nearest 5"))
        for (key, way), level in zip(_WAYS, (None, None) if top else levels, strict=True)
    ]
    text = (
        "Accuracy of the nearest-neighbour assignment against the training step. P1 finds sample to noise high from "
        "the start while noise to sample falls early (figure 5)."
    )
    figures = over_training(comparison, "f5_assignment", quantities, text)
    missing = missing_from(comparison, _ASSIGNMENT)
    return Section("assignment-over-training", "Assignment over training (F5)", (), figures, (), missing)


def settling(comparison: Comparison) -> Section:
    """Similarity to the final samples, and rows of pictures (F6)."""
    keys = [key for key in comparison.keys(_FINAL) if not comparison.describe(_FINAL).column(key).is_setting]
    titles = {key: key.removesuffix("_cosine").upper() + " features, cosine" for key in keys} | _SIMILARITIES
    text = (
        "Similarity of each checkpoint's samples to the final model's, from the same noises. P1 finds that all settle "
        "within a few epochs (figure 6). Levels, where they were recorded: the samples of exact denoisers against the "
        "final ones, from the same noises; so similar is what has the covariance of the images and was never trained."
    )
    quantities = [Quantity(_FINAL, key, titles[key], "similarity", baseline=TO_NETWORK) for key in keys]
    figures = over_training(comparison, "f6_similarity", quantities, text, alt="Curves") if keys else ()
    missing = missing_from(comparison, _FINAL)
    if not keys and any(not run.is_finished for run in comparison.runs):
        missing += ("Similarity to the final samples is measured when a run ends.",)
    rows = [_rows_over_training(index, run) for index, _, run in comparison.first_runs()]
    figures += tuple(figure for figure in rows if figure)
    tables = tuple(filter(None, [_likeness_of_exact_denoisers(comparison)]))
    return Section("settling", "When the map from noise to sample settles (F6)", (), figures, tables, missing)


def _likeness_of_exact_denoisers(comparison: Comparison) -> Table | None:
    """How well the images of exact denoisers predict those of the final networks, whatever their number is."""
    found: dict[tuple[str, Member, int | None], list[dict[str, Measured]]] = {}
    for group in comparison.groups:
        for run in group.runs:
            of_run: dict[tuple[str, Member, int | None], dict[str, Measured]] = {}
            for records in run.exact("num_samples"):
                member, count = Member.of(records), records.convention("num_samples")
                for values in records.measured(TO_NETWORK).values():
                    of_run.setdefault((comparison.exact_label(group, member.label), member, count), values)
            for key, values in of_run.items():
                found.setdefault(key, []).append(values)
    if not found:
        return None
    rows = tuple(
        (label, member.num_images or None, count, *(_mean(of_runs, key) for key in _LIKENESS))
        for (label, member, count), of_runs in sorted(found.items(), key=lambda item: -_mean_r2(item[1]))
    )
    caption = (
        "Samples of exact denoisers and those of the final networks from the same noises: R² of each of the network's "
        "images by the exact denoiser's (1: the same; 0: no better than the mean of its values), on average, with its "
        "standard error over images, and with images of other noises (null). R² and SSIM may be compared between "
        f"different N, SVCCA not; {tell_spread(rows)}."
    )
    return Table("f6_exact_denoisers", caption, ("exact denoiser", "images M", "N", *_LIKENESS.values()), rows)


def _mean(of_runs: list[dict[str, Measured]], key: str) -> Estimate | None:
    return combine((values[key] for values in of_runs if key in values), 3)


def _mean_r2(of_runs: list[dict[str, Measured]]) -> float:
    mean = _mean(of_runs, "r2")
    return mean.mean if mean else -np.inf


def _rows_over_training(index: int, run: Run) -> Figure | None:
    steps = run.own.folder.sample_steps()
    if len(steps) < 2:
        return None
    rows = {step: row for step in evenly(steps, _MOST_ROWS) if (row := _sample_row(run, step)) is not None}
    labels, caption = [f"step {step}" for step in rows], "one row a checkpoint."
    if len({row.shape for row in rows.values()}) == 1:
        pixels: np.ndarray | None = np.concatenate(list(rows.values()))
        caption = f"samples from the same noises (columns) at {len(rows)} training steps (rows)."
    else:
        _, path = run.own.folder.newest_picture("fixed_noise_generation_final.over_training") or (None, None)
        labels, pixels = [], read_picture(path) if path else None
    if pixels is None:
        return None
    alt = f"Rows of samples of {run.name} from the same noises, one row a training step."
    return Figure(f"f6_rows_{index}", draw_picture(pixels, labels), f"{run.name}: {caption}", alt, is_picture=True)


def _sample_row(run: Run, step: int) -> np.ndarray | None:
    """The first samples of a step side by side, (H, W, 3) uint8; None for codes of a latent model."""
    x_0 = run.own.folder.first_samples(step, _SAMPLES_A_ROW)
    if x_0 is None or x_0.ndim != 4 or x_0.shape[1] not in (1, 3) or x_0.size == 0:
        return None
    grey = np.nan_to_num(np.clip((x_0 + 1) * 127.5, 0, 255)).round().astype(np.uint8)
    colour = grey.repeat(3, axis=1) if grey.shape[1] == 1 else grey
    factor = max(1, -(-_TILE_PX // x_0.shape[-1]))
    tiles = colour.transpose(0, 2, 3, 1).repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)


def hubs(comparison: Comparison) -> Section:
    """The samples that capture wrong noises, how flat they are and how small their norm (F7, F8)."""
    quantities = [
        Quantity(_ASSIGNMENT, "pixel_variance", "pixel variance, all samples", "variance"),
        Quantity(_ASSIGNMENT, "hubs_pixel_variance", "pixel variance, nearest samples", "variance"),
        Quantity(_ASSIGNMENT, "squared_norm_per_value", "|x|² / D, all samples", "|x|² / D"),
        Quantity(_ASSIGNMENT, "hubs_squared_norm_per_value", "|x|² / D, nearest samples", "|x|² / D"),
        Quantity(_ASSIGNMENT, "squared_brightness", "squared brightness, all samples", "mean²"),
        Quantity(_ASSIGNMENT, "hubs_squared_brightness", "squared brightness, nearest samples", "mean²"),
        Quantity(_ASSIGNMENT, "captures_pixel_variance_spearman", "captures with variance", "Spearman"),
        Quantity(_ASSIGNMENT, "captures_squared_norm_per_value_spearman", "captures with |x|²", "Spearman"),
        Quantity(_ASSIGNMENT, "captures_squared_brightness_spearman", "captures with squared brightness", "Spearman"),
        Quantity(_ASSIGNMENT, "largest_hub_share", "noises captured by the largest hub [%]", "[%]", 100),
    ]
    text = (
        "Hubs are the samples that are nearest to most noises; P1 finds that they have large plain areas (figures 7 "
        "and 8). But |noise - x|² has |x|² in it and no variance: by itself a small norm captures, so |x|² stands "
        "beside the variance and the squared mean of the pixels, which |x|² / D is the sum of. "
        "Nearest samples: mean over the noises of the value of the sample nearest to each, so "
        "that every sample weighs as many times as it captures. Spearman: rank correlation over the samples of the "
        "number of noises captured with the value; 0 by chance. The dashed line is the share that one sample has when "
        "every noise finds its own."
    )
    figures = over_training(comparison, "f7_hub_variance", quantities, text, alt="Curves", num_alike=4)
    recorded = comparison.keys(_ASSIGNMENT)
    rows = [(q.title.removesuffix(" [%]"), q.key, 3) for q in quantities if q.key in recorded]
    caption = "The samples nearest to the noises, at the last step"
    table = last_table(comparison, _ASSIGNMENT, "f7_hubs", caption, rows)
    if not figures:
        table = replace(table, caption=f"{table.caption} {text} {how_computed(comparison, _ASSIGNMENT)}")
    pictures = newest_pictures(
        comparison,
        f"{_ASSIGNMENT}.hubs",
        "f8_hubs",
        ": the samples that capture most noises, in that order.",
        "A row of samples of {} that capture most noises.",
    )
    missing = missing_from(comparison, _ASSIGNMENT)
    tables = (table,) if rows else ()
    return Section("hubs", "Samples that capture wrong noises (F7, F8)", (), (*figures, *pictures), tables, missing)
