"""Probes that this package does not have: what their records say by themselves, and by the catalogue of the run."""

from probediff.report.curves import draw
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.groups import Comparison
from probediff.report.overview import file_stem
from probediff.report.panels import Panel, Quantity, in_words, panel, tell_bands
from probediff.report.parts import Figure, Section, how_computed, missing_from
from probediff.runs.catalogue import PROBES
from probediff.runs.descriptions import Description

_MOST_PANELS, _MOST_PICTURES = 12, 4


def outside_probes(comparison: Comparison) -> Section:
    """Curves of all their numbers, and their last pictures; all values stand at the end of the page anyway."""
    names = {name: None for run in comparison.runs for name in run.own.probe_names()}
    outside = [name for name in names if name.removesuffix("_final") not in PROBES]
    figures, missing, text = [], list[str](), list[str]()
    for probe in outside:
        described = comparison.describe(probe)
        text.append(f"{described.title or probe}: {how_computed(comparison, probe)}")
        missing += missing_from(comparison, probe)
        shown = [Quantity(probe, key, key, described.column(key).unit) for key in _curves(comparison, described)]
        panels = [(q, drawn) for q in shown if (drawn := panel(comparison, q)).has_curves]
        if len(panels) > _MOST_PANELS:
            missing.append(f"{probe}: {len(panels) - _MOST_PANELS} more numbers are among all values only.")
        if panels := panels[:_MOST_PANELS]:
            figures.append(_curve_figure(comparison, probe, panels))
        figures += _pictures(comparison, described)
    title = "Probes from outside"
    return Section("outside-probes", title, tuple(text), tuple(figures), missing=tuple(dict.fromkeys(missing)))


def _curves(comparison: Comparison, described: Description) -> list[str]:
    """Its numbers in the order of their catalogue: settings are none, and a null is drawn beside its quantity."""
    keys = list(comparison.keys(described.key))
    nulls = {described.null_of(key, keys) for key in keys}
    return [key for key in keys if key not in nulls and not described.column(key).is_setting]


def _curve_figure(comparison: Comparison, probe: str, panels: list[tuple[Quantity, Panel]]) -> Figure:
    quantities, shown = [quantity for quantity, _ in panels], [drawn for _, drawn in panels]
    caption = f"What {probe} records, against the training step.{tell_bands(shown, probe)}"
    words = f"Curves: {in_words(comparison, quantities)}."
    return Figure(file_stem(f"outside_{probe}"), draw(shown), caption, words)


def _pictures(comparison: Comparison, described: Description) -> list[Figure]:
    figures = []
    names = [column.key for column in described.columns if column.kind == "picture"][:_MOST_PICTURES]
    for index, group, run in comparison.first_runs():
        for name in names:
            newest = run.own.folder.newest_picture(f"{described.key}.{name}")
            if newest is not None and (pixels := read_picture(newest[1])) is not None:
                stem = file_stem(f"outside_{described.key}_{name}_{index}")
                caption = f"{group.label}: {name} of {described.key} at step {newest[0]}."
                figures.append(Figure(stem, draw_picture(pixels), caption, caption, is_picture=True))
    return figures
