"""What depends on the number of DDIM steps: how much of T1, F2, F3 and T2 of P1 is discretisation.

P1 is *There and Back Again*, whose tables and figures do not all say how many steps they were made with. Between
infinitely many steps an exact denoiser's latents are its noises: what is left at few steps is the steps' own.
"""

from dataclasses import dataclass

from probediff.report.curves import draw
from probediff.report.groups import Comparison, Estimate, Group, Member, combine
from probediff.report.panels import Line, Panel
from probediff.report.parts import Figure, Section
from probediff.report.records import Measured, ProbeRecords
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table, tell_spread

#: What may differ between folders that stand in one table.
_FREE = ("num_steps", "num_samples")
_HOW_TO = (
    "Recorded with one number of DDIM steps: `probediff probe RUN --checkpoints last --num_steps 10,100,1000` shows "
    "what of the numbers is due to the steps, and the same for `exact:RUN,h=0.4` what an exact denoiser has of it."
)


@dataclass(frozen=True)
class _Column:
    """One number: where it is recorded, its words, what it is multiplied with, decimals; whether a panel shows it."""

    probe: str
    key: str
    words: str
    scale: float = 1.0
    digits: int | None = None
    is_drawn: bool = True


_COLUMNS = (
    _Column("pixel_correlation", "latent", "T1: top-10 |r| of latents", digits=3),
    _Column("pixel_correlation", "null", "null", digits=3, is_drawn=False),
    _Column("inversion_angles", "at_image_mean_deg", "F2: angle at the sample [°]", digits=1),
    _Column("inversion_angles", "at_latent_mean_deg", "F2: angle at the latent [°]", digits=1),
    _Column("inversion_angles", "distance_noise_latent_mean", "distance noise–latent (L2)", digits=1),
    _Column("trajectory_heatmap", "closest_to_latent_step_fraction", "F3: steps done nearest to the latent", digits=2),
    _Column("assignment_accuracy", "image_to_noise", "T2: sample → noise [%]", 100, 1),
    _Column("assignment_accuracy", "noise_to_image", "T2: noise → sample [%]", 100, 1),
)
#: A model and its N.
_Key = tuple[str, int]


def by_num_steps(comparison: Comparison) -> Section:
    """Numbers of the final network, and of exact denoisers, for every number of steps that they were probed with."""
    name, title = "num-steps", "Against the number of DDIM steps (T1, F2, F3, T2)"
    rows = _rows(comparison)
    if all(len(by_steps) < 2 for by_steps in rows.values()):
        return Section(name, title, missing=(_HOW_TO,))
    cells: list[tuple[Cell, ...]] = [
        (label, num_samples, num_steps, *estimates)
        for (label, num_samples), by_steps in rows.items()
        for num_steps, estimates in sorted(by_steps.items())
    ]
    caption = f"Numbers at the last step by the number of DDIM steps; {tell_spread(cells)}."
    table = Table("by_num_steps", caption, ("model", "N", "DDIM steps", *(c.words for c in _COLUMNS)), tuple(cells))
    return Section(name, title, (), (_figure(rows),), (table,))


def _rows(comparison: Comparison) -> dict[_Key, dict[int, list[Estimate | None]]]:
    """Estimates in the order of the columns, by model and N, and by number of steps."""
    found: dict[_Key, dict[int, list[list[Measured]]]] = {}
    for group in comparison.groups:
        for run in group.runs:
            for label, records in _folders(comparison, group, run):
                num_samples, num_steps = records.convention("num_samples"), records.convention("num_steps")
                if num_samples is None or num_steps is None:
                    continue
                columns = found.setdefault((label, num_samples), {}).setdefault(num_steps, [[] for _ in _COLUMNS])
                for numbers, column in zip(columns, _COLUMNS, strict=True):
                    series = records.measured_series(column.probe, column.key)
                    numbers += [series[max(series)].scaled(column.scale)] if series else []
    return {
        key: {n: [combine(m, c.digits) for m, c in zip(of, _COLUMNS, strict=True)] for n, of in by_steps.items()}
        for key, by_steps in found.items()
    }


def _folders(comparison: Comparison, group: Group, run: Run) -> list[tuple[str, ProbeRecords]]:
    """The network's records and those of exact denoisers, with how they are called; one of each number of steps and N.

    A replay stands for the run's own records of the same steps and N, for these may be of an earlier version.
    """
    last = run.own.last_step
    replays = [r for kind in ("replay", "model") for r in run.of_kind(kind) if r.last_step == last]
    named = [(group.label, r) for r in (*replays, run.own)]
    for records in (r for r in run.extra if r.is_exact):
        member = Member.of(records)
        images = f", M = {member.num_images:,}" if member.num_images and member.bandwidth != 1 else ""
        named.append((comparison.exact_label(group, f"exact, {member.label}{images}"), records))
    chosen: dict[tuple[str, object, object], ProbeRecords] = {}
    for label, records in named:
        if not records.differing_from(run.own).keys() - {*_FREE}:
            records = records.without(records.other_options(run.own))
            chosen.setdefault((label, *(records.convention(key) for key in _FREE)), records)
    return [(label, records) for (label, *_), records in chosen.items()]


def _figure(rows: dict[_Key, dict[int, list[Estimate | None]]]) -> Figure:
    several = len({num_samples for _, num_samples in rows}) > 1
    panels, words = [], []
    for index, column in enumerate(_COLUMNS):
        lines = []
        for place, ((label, num_samples), by_steps) in enumerate(rows.items()):
            known = {n: of[index] for n, of in sorted(by_steps.items())}
            points = {n: estimate.mean for n, estimate in known.items() if estimate is not None}
            errors = {n: 2 * e.error for n, e in known.items() if e is not None and e.error is not None}
            if len(points) > 1 and column.is_drawn:
                name = f"{label}, N = {num_samples}" if several else label
                lines.append(Line(name, "single", points, errors, place))
                words.append(
                    f"{column.words} of {name} from {next(iter(points.values())):.3g} to {points[max(points)]:.3g}"
                )
        if lines:
            panels.append(Panel(column.words, "", tuple(lines), x_label="DDIM steps"))
    caption = (
        "The final model's numbers against the number of DDIM steps of sampling and inversion; bands: ± 2 standard "
        "errors. What falls with the steps is due to them: an exact denoiser's latents are its noises in the limit."
    )
    return Figure("by_num_steps", draw(panels), caption, f"Curves against the number of steps. {'; '.join(words)}.")
