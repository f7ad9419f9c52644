"""From noise to image and back: assignment, when the map settles, hubs (P1-T2, F5 to F8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from safetensors import SafetensorError, safe_open

from probediff.report.curves import draw, in_words, panel, same_range
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.geometry import first_runs
from probediff.report.groups import Comparison, Estimate, Group, estimate, of_kind, own
from probediff.report.parts import Figure, Section, how_computed, joined, missing_from
from probediff.report.published import SOURCE, published_for
from probediff.report.sources import Probes, Run, step_of
from probediff.report.tables import Cell, Table

_ASSIGNMENT = "assignment_accuracy"
_WAYS = (("image_to_noise", "sample → noise"), ("noise_to_image", "noise → sample"))
_FINAL = "checkpoint_similarity_final"
_MOST_ROWS, _SAMPLES_A_ROW, _TILE_PX = 10, 12, 64


def assignment_table(comparison: Comparison) -> Section:
    """P1-T2: accuracy both ways for each number of steps."""
    name, title = "assignment", "Assigning samples to noises and noises to samples (T2)"
    missing = missing_from(comparison, _ASSIGNMENT)
    settings = sorted({s for run in comparison.runs for p in _sources(run) if (s := _setting(p)) is not None})
    if not settings:
        return Section(name, title, missing=missing)
    published, is_same = published_for(comparison.data)
    several = len({convention for _, convention in settings}) > 1
    # P1 used the convention of OpenAI's code; its numbers of steps stand here for comparison.
    settings = sorted({*settings, *((n, "openai") for n in published.assignment if n not in dict(settings))})
    rows: list[tuple[Cell, ...]] = []
    for num_steps, convention in settings:
        cells: list[Cell] = [f"{num_steps}, {convention}" if several else str(num_steps)]
        for kind in ("own", "gaussian"):
            for group in _groups_of(comparison, kind):
                cells += [_accuracy(group, kind, (num_steps, convention), key) for key, _ in _WAYS]
        cells.append(_null(comparison, (num_steps, convention)))
        for k in range(2):
            value = published.assignment.get(num_steps)
            cells.append(Estimate(*value[k], n=None, digits=1) if value else None)
        rows.append(tuple(cells))
    heads = [(g.label, "own") for g in comparison.groups]
    heads += [(_gaussian_label(comparison, g), "gaussian") for g in _groups_of(comparison, "gaussian")]
    columns = [f"{label}: {way}" for label, _ in heads for _, way in _WAYS]
    header = (
        "DDIM steps" + (", convention" if several else ""),
        *columns,
        "null 1/N",
        *(f"published, {published.data}: {way}" for _, way in _WAYS),
    )
    caption = "Nearest-neighbour (L2) assignment accuracy in per cent at the last step; mean ± std over runs (number)."
    text = joined(
        [
            "Each sample is assigned to its nearest noise, and each noise to its nearest sample.",
            published_note(published.data, is_same, comparison.data),
            how_computed(comparison, _ASSIGNMENT),
            "More numbers of steps appear here once `probediff probe` has replayed a run with them.",
        ]
    )
    return Section(name, title, (text,), (), (Table("t2_assignment", caption, header, tuple(rows)),), missing)


def published_note(data: str, is_same: bool, own_data: str | None) -> str:
    """Where published values come from, and whether they are of the data of these runs."""
    note = f"Published values: {SOURCE}."
    if is_same:
        return note
    return note + f" They are those of {data}, not of the data of these runs ({own_data or 'unpublished or mixed'})."


def _gaussian_label(comparison: Comparison, group: Group) -> str:
    return "Gaussian denoiser" + (f", {group.label}" if len(comparison.groups) > 1 else "")


def _groups_of(comparison: Comparison, kind: str) -> list[Group]:
    return [g for g in comparison.groups if kind == "own" or any(run.of_kind(kind) for run in g.runs)]


def _sources(run: Run) -> list[Probes]:
    """The run's own records first, then replays, other numbers of steps of a model, the Gaussian denoiser."""
    return [run.own, *run.of_kind("replay"), *run.of_kind("model"), *run.of_kind("gaussian")]


def _setting(probes: Probes) -> tuple[int, str] | None:
    num_steps, convention = probes.convention("num_steps"), probes.convention("convention")
    return (num_steps, str(convention)) if num_steps is not None and probes.values(_ASSIGNMENT) else None


def _last_at(run: Run, kind: str, setting: tuple[int, str], key: str) -> float | None:
    wanted = [p for p in _sources(run) if (p.kind == "gaussian") == (kind == "gaussian") and _setting(p) == setting]
    series = next((s for p in wanted if (s := p.series(_ASSIGNMENT, key))), {})
    return list(series.values())[-1] if series else None


def _accuracy(group: Group, kind: str, setting: tuple[int, str], key: str) -> Estimate | None:
    found = (_last_at(run, kind, setting, key) for run in group.runs)
    return estimate((100 * value for value in found if value is not None), 1)


def _null(comparison: Comparison, setting: tuple[int, str]) -> Estimate | None:
    found = {v for run in comparison.runs for k in ("own", "gaussian") if (v := _last_at(run, k, setting, "null"))}
    return Estimate(100 * found.pop(), None, 1, 2) if len(found) == 1 else None


def assignment_curves(comparison: Comparison) -> Section:
    """P1-F5: the same accuracies against the training step."""
    published, is_same = published_for(comparison.data)
    steps = {run.own.convention("num_steps") for run in comparison.runs}
    level = published.assignment.get(next(iter(steps))) if is_same and len(steps) == 1 else None
    panels = [
        panel(
            comparison,
            f"{way}{suffix}",
            "accuracy [%]",
            own(_ASSIGNMENT, key + top, 100),
            own(_ASSIGNMENT, "null", 500 if top else 100),
            of_kind("gaussian", _ASSIGNMENT, key + top, 100),
            level[k][0] if level and not top else None,
        )
        for top, suffix in (("", ""), ("_top5", ", among the nearest 5"))
        for k, (key, way) in enumerate(_WAYS)
    ]
    panels = [replace(one, y_range=(-3, 103)) for one in panels]
    figures: tuple[Figure, ...] = ()
    if any(one.has_curves for one in panels):
        alt = in_words(comparison, [(way, own(_ASSIGNMENT, key, 100)) for key, way in _WAYS])
        caption = joined(
            [
                "Accuracy of the nearest-neighbour assignment against the training step. P1 finds sample to noise high "
                "from the start while noise to sample falls early (figure 5).",
                how_computed(comparison, _ASSIGNMENT),
            ]
        )
        figures = (Figure("f5_assignment", draw(panels), caption, f"Curves against training step: {alt}."),)
    missing = missing_from(comparison, _ASSIGNMENT)
    return Section("assignment-over-training", "Assignment over training (F5)", (), figures, (), missing)


def settling(comparison: Comparison) -> Section:
    """P1-F6: similarity to the final samples, and rows of pictures."""
    keys = dict.fromkeys(k for run in comparison.runs for values in run.own.values(_FINAL).values() for k in values)
    names = {"cka": "CKA", "cka_debiased": "CKA, debiased", "svcca": "SVCCA", "ssim": "SSIM"}
    told = [
        (names.get(key, key.removesuffix("_cosine").upper() + " features, cosine"), own(_FINAL, key))
        for key in keys
        if key != "final_step"
    ]
    panels = [panel(comparison, title, "similarity", select) for title, select in told]
    figures = []
    if any(one.has_curves for one in panels):
        caption = joined(
            [
                "Similarity of each checkpoint's samples to the final model's, from the same noises. P1 finds that all "
                "settle within a few epochs (figure 6).",
                how_computed(comparison, _FINAL),
            ]
        )
        figures = [Figure("f6_similarity", draw(panels), caption, f"Curves: {in_words(comparison, told)}.")]
    said = list(missing_from(comparison, _FINAL))
    if not keys and any(not run.is_finished for run in comparison.runs):
        said.append("Similarity to the final samples is measured when a run ends.")
    rows = [_rows_over_training(index, run) for index, _, run in first_runs(comparison)]
    figures += [figure for figure in rows if figure]
    return Section("settling", "When the map from noise to sample settles (F6)", (), tuple(figures), (), tuple(said))


def _rows_over_training(index: int, run: Run) -> Figure | None:
    steps = sorted(step_of(p) for p in run.own.path.glob("samples/step=*.safetensors") if p.name.count(".") == 1)
    if len(steps) < 2:
        return None
    chosen = sorted({steps[round(k * (len(steps) - 1) / (_MOST_ROWS - 1))] for k in range(_MOST_ROWS)})
    rows = {step: row for step in chosen if (row := _sample_row(run, step)) is not None}
    name, alt = f"f6_rows_{index}", f"Rows of samples of {run.name} from the same noises, one row a training step."
    if len({row.shape for row in rows.values()}) == 1:
        caption = f"{run.name}: samples from the same noises (columns) at {len(rows)} training steps (rows)."
        drawing = draw_picture(np.concatenate(list(rows.values())), [f"step {step}" for step in rows])
        return Figure(name, drawing, caption, alt, is_picture=True)
    found = run.own.newest_picture("fixed_noise_generation*.over_training.png")
    pixels = read_picture(found[1]) if found else None
    if pixels is None:
        return None
    return Figure(name, draw_picture(pixels, []), f"{run.name}: one row a checkpoint.", alt, is_picture=True)


def _sample_row(run: Run, step: int) -> np.ndarray | None:
    """The first samples of a step side by side, (H, W, 3) uint8; None for codes of a latent model."""
    path = run.own.path / "samples" / f"step={step:08d}.safetensors"
    try:
        with safe_open(path, "np") as file:
            x_0 = np.asarray(file.get_slice("x_0")[:_SAMPLES_A_ROW], dtype=np.float32)
    except (OSError, KeyError, SafetensorError):
        return None
    if x_0.ndim != 4 or x_0.shape[1] not in (1, 3):
        return None
    grey = np.clip((x_0 + 1) * 127.5, 0, 255).round().astype(np.uint8)
    colour = grey.repeat(3, axis=1) if grey.shape[1] == 1 else grey
    factor = max(1, -(-_TILE_PX // x_0.shape[-1]))
    tiles = colour.transpose(0, 2, 3, 1).repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)


def hubs(comparison: Comparison) -> Section:
    """P1-F7/8: the samples that capture wrong noises, and how flat they are."""
    told = [
        ("pixel variance, all samples", own(_ASSIGNMENT, "pixel_variance")),
        ("pixel variance, hubs", own(_ASSIGNMENT, "hubs_pixel_variance")),
        ("noises captured by the largest hub [%]", own(_ASSIGNMENT, "largest_hub_share", 100)),
    ]
    keys = ("pixel_variance", "hubs_pixel_variance", "largest_hub_share")
    null = own(_ASSIGNMENT, "null", 100)
    panels = [
        panel(
            comparison,
            title,
            "[%]" if "[%]" in title else "variance",
            select,
            null if "[%]" in title else None,
            of_kind("gaussian", _ASSIGNMENT, key, 100 if "[%]" in title else 1),
        )
        for (title, select), key in zip(told, keys, strict=True)
    ]
    panels = [*same_range(panels[:2]), panels[2]]
    figures = []
    if any(one.has_curves for one in panels):
        caption = joined(
            [
                "Hubs are the samples that are nearest to most noises; P1 finds that they have large plain areas "
                "(figures 7 and 8). The dashed line is the share that one sample has when every noise finds its own.",
                how_computed(comparison, _ASSIGNMENT),
            ]
        )
        figures = [Figure("f7_hub_variance", draw(panels), caption, f"Curves: {in_words(comparison, told)}.")]
    for index, group, run in first_runs(comparison):
        found = run.own.newest_picture(f"{_ASSIGNMENT}.hubs.png")
        pixels = read_picture(found[1]) if found else None
        if found and pixels is not None:
            caption = f"{run.name}, step {found[0]}: the samples that capture most noises, in that order."
            alt = f"A row of samples of {group.label} that capture most noises."
            figures.append(Figure(f"f8_hubs_{index}", draw_picture(pixels, []), caption, alt, is_picture=True))
    missing = missing_from(comparison, _ASSIGNMENT)
    return Section("hubs", "Samples that capture wrong noises (F7, F8)", (), tuple(figures), (), missing)
