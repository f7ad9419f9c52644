"""What sections are made of: curves, tables and pictures of any probe."""

from collections.abc import Sequence
from typing import Any

from probediff.report.curves import draw
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.groups import Comparison, Group, last_estimate, mean_curve, members, of_kind, own
from probediff.report.panels import Quantity, in_words, panel, same_range, tell_bands
from probediff.report.parts import Figure, Section, how_computed, missing_from, tell_redefined
from probediff.report.records import errors_over
from probediff.report.tables import Cell, Table, tell_spread

_NULL = "_null"
_MOST_PANELS = 12


def over_training(
    comparison: Comparison,
    name: str,
    quantities: Sequence[Quantity],
    text: str,
    kind: str = "own",
    alt: str = "Curves against training step",
    num_alike: int = 0,
) -> tuple[Figure, ...]:
    """One figure with a panel for every quantity that changes with the training step; none where nothing does.

    Args:
        comparison: the groups.
        name: stem of the figure's files.
        quantities: of one probe.
        text: what the caption says before it says how the numbers were computed.
        kind: folders of records.
        alt: how the text that stands for the figure begins.
        num_alike: so many of the first panels have the same vertical axis.
    """
    panels = [panel(comparison, quantity, kind) for quantity in quantities]
    panels = [panel for panel in same_range(panels[:num_alike]) + panels[num_alike:] if panel.has_curves]
    if not panels:
        return ()
    probe, shown = quantities[0].probe, [quantity.key for quantity in quantities]
    # The Gaussian denoiser's curve stands beside whatever kind.
    earlier = tell_redefined(comparison, probe, dict.fromkeys((kind, "gaussian")), shown)
    caption = f"{text} {how_computed(comparison, probe, kind)}{tell_bands(panels, probe)}{earlier}"
    return (Figure(name, draw(panels), caption, f"{alt}: {in_words(comparison, quantities, kind)}."),)


def newest_pictures(
    comparison: Comparison, picture: str, name: str, caption: str, alt: str, row_labels: Sequence[str] = ()
) -> list[Figure]:
    """The last picture ``<probe>.<name>`` of the first run of each group, where there is one that can be read."""
    figures = []
    for index, group, run in comparison.first_runs():
        step, path = run.own.folder.newest_picture(picture) or (None, None)
        pixels = read_picture(path) if path else None
        if pixels is not None:
            words = f"{run.name}, step {step}{caption}", alt.format(group.label)
            figures.append(Figure(f"{name}_{index}", draw_picture(pixels, row_labels), *words, is_picture=True))
    return figures


def evenly(steps: list[int], most: int) -> list[int]:
    """At most so many of the steps, the first and the last among them."""
    return sorted({steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)}) if steps else []


def measured_groups(comparison: Comparison, probe: str) -> list[tuple[str, str, Group]]:
    """Title, kind and group of each column: every group, and its exact denoisers where the probe measured those."""
    columns = [(group.label, "own", group) for group in comparison.groups]
    for group in comparison.groups:
        folders = [folder for run in group.runs if (folder := run.like_own("gaussian"))]
        if any(folder.values(probe) for folder in folders):
            columns.append((comparison.gaussian_label(group), "gaussian", group))
        for member in members(group):
            folders = [folder for run in group.runs if (folder := run.like_own(member.kind))]
            if member.kind != "gaussian" and any(folder.values(probe) for folder in folders):
                columns.append((comparison.exact_label(group, f"exact, {member.label}"), member.kind, group))
    return columns


def last_table(
    comparison: Comparison,
    probe: str,
    name: str,
    caption: str,
    rows: Sequence[tuple[Any, ...]],
    last_header: Sequence[str] = (),
    with_exact: bool = True,
) -> Table:
    """Values at the last step: a column for every group and each of its exact denoisers.

    Args:
        comparison: the groups.
        probe: whose values.
        name: stem of the table's files.
        caption: how a sentence begins that what ± means ends.
        rows: words, key and decimals of each value, and its cells in further columns.
        last_header: of these.
        with_exact: whether exact denoisers are among the columns.
    """
    columns = [column for column in measured_groups(comparison, probe) if with_exact or column[1] == "own"]
    cells = [
        (words, *(last_estimate(group, of_kind(kind, probe, key), digits) for _, kind, group in columns), *others)
        for words, key, digits, *others in rows
    ]
    # A table is read and cited without the figure beside it.
    kinds = dict.fromkeys(kind for _, kind, _ in columns)
    shown = {key for row in rows for key in (row[1], f"{row[1]}{_NULL}")}
    caption = f"{caption}; {tell_spread(cells, errors_over(probe))}.{tell_redefined(comparison, probe, kinds, shown)}"
    return Table(name, caption, ("", *(title for title, _, _ in columns), *last_header), tuple(cells))


def probe_section(comparison: Comparison, probe: str, text: str, pictures: Sequence[Figure] = ()) -> Section:
    """Everything that one probe measured: last values beside their nulls, curves, pictures, and all by step."""
    keys, description = comparison.keys(probe), comparison.describe(probe)
    figures = over_training(
        comparison,
        f"{probe}_over_training",
        [
            Quantity(probe, key, key.replace("_", " "), description.column(key).unit)
            for key in keys
            if not key.endswith(_NULL) and not description.column(key).is_setting
        ][:_MOST_PANELS],
        f"Values of {probe} against the training step. Dashed: the null.",
    )
    tables = (_values_and_nulls(comparison, probe),) if keys else ()
    words = (text + ("" if figures else f" {how_computed(comparison, probe)}"),) if keys else ()
    by_step = values_by_step(comparison, probe, f"{probe}_by_step") if figures else None
    return Section(
        probe.replace("_", "-"),
        description.title,
        words,
        (*figures, *pictures),
        tables,
        missing_from(comparison, probe),
        (by_step,) if by_step else (),
    )


def _values_and_nulls(comparison: Comparison, probe: str) -> Table:
    keys, description = comparison.keys(probe), comparison.describe(probe)
    labels = [group.label for group in comparison.groups]
    nulls = [f"null, {label}" if len(labels) > 1 else "null" for label in labels]
    rows = [
        (key, key, None, *(last_estimate(g, own(probe, description.null_of(key, keys))) for g in comparison.groups))
        for key in keys
        if not (key.endswith(_NULL) and key.removesuffix(_NULL) in keys)
    ]
    last_steps = {max((s for run in g.runs for s in run.own.values(probe)), default=None) for g in comparison.groups}
    steps = ", ".join(str(step) for step in sorted(step for step in last_steps if step is not None))
    caption = f"Values of {probe} beside their nulls. At step {steps}"
    return last_table(comparison, probe, probe, caption, rows, nulls)


def values_by_step(comparison: Comparison, probe: str, name: str, kind: str = "own") -> Table | None:
    """All values of a probe by training step; one line a step and group."""
    keys = comparison.keys(probe, kind)
    several = len(comparison.groups) > 1
    rows: list[tuple[Cell, ...]] = []
    for group in comparison.groups:
        means = {key: mean_curve(group, of_kind(kind, probe, key)) for key in keys}
        for step in sorted({step for mean in means.values() for step in mean}):
            lead: tuple[Cell, ...] = (step, group.label) if several else (step,)
            rows.append((*lead, *(means[key].get(step) for key in keys)))
    if not rows:
        return None
    header = ("step", *(["runs"] if several else []), *keys)
    where = "" if kind == "own" else f" ({kind})"
    caption = f"{probe}{where} by training step; {tell_spread(rows, errors_over(probe))}."
    return Table(name, caption + tell_redefined(comparison, probe, [kind]), header, tuple(rows))


def spread_note(comparison: Comparison) -> str:
    """How ± and bands are meant, where there are any."""
    several = any(len(group.runs) > 1 for group in comparison.groups)
    over_runs = "the sample standard deviation over runs (n - 1)"
    curves = (
        "thin curves are single runs, bold ones their mean at the steps that all of them have, and the band is one "
        "standard deviation"
    )
    if not has_errors(comparison):
        return f"± is {over_runs}; {curves}." if several else ""
    words = "± is the standard error over fresh noises or images (captions say which), as many as were probed"
    words += f"; 'seeds ±', or ± alone before a number of runs, {over_runs}; {curves}" if several else ""
    return f"{words}. The faint band about the curve of a run that stands alone is two standard errors."


def has_errors(comparison: Comparison) -> bool:
    """Whether any record has a standard error."""
    folders = [records for run in comparison.runs for records in (run.own, *run.extra)]
    return any(records.standard_errors(probe) for records in folders for probe in records.probe_names())
