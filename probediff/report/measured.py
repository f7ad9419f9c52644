"""Any probe's values: at the last step beside their nulls, against the training step, and step by step."""

from __future__ import annotations

from probediff.report.curves import draw, in_words, panel
from probediff.report.groups import Comparison, Group, Select, last_estimate, last_values, mean_curve, of_kind, own
from probediff.report.parts import Figure, how_computed, joined
from probediff.report.tables import Cell, Table

_NULL = "_null"
_MOST_PANELS = 12
#: Values that say how something was measured; they are in the tables and need no curve.
_SETTINGS = ("num_", "kid_subset_size", "threshold", "shapiro_samples", "full_rank", "previous_step", "final_step")


def value_keys(comparison: Comparison, probe: str, kind: str = "own") -> list[str]:
    """Keys of all runs' values of a probe, in the order of the records."""
    folders = [probes for run in comparison.runs if (probes := run.like_own(kind))]
    return list(dict.fromkeys(key for p in folders for values in p.values(probe).values() for key in values))


def null_key(keys: list[str], key: str) -> str:
    """``<key>_null``, or the null that several values share: ``hubness_null`` of ``image_hubness``."""
    shared = key.partition("_")[2] + _NULL
    return shared if key + _NULL not in keys and shared in keys else key + _NULL


def last_table(comparison: Comparison, probe: str, name: str, caption: str) -> Table | None:
    """Every value at the last step, its null, and what the Gaussian denoiser gives."""
    keys = value_keys(comparison, probe)
    rows: list[tuple[Cell, ...]] = []
    kinds = ["own"] + ["gaussian"] * any(value_keys(comparison, probe, "gaussian"))
    for key in (k for k in keys if not (k.endswith(_NULL) and k.removesuffix(_NULL) in keys)):
        cells: list[Cell] = []
        for kind in kinds:
            for group in comparison.groups:
                cells.append(last_estimate(group, of_kind(kind, probe, key)))
        cells += [last_estimate(group, own(probe, null_key(keys, key))) for group in comparison.groups]
        rows.append((key, *cells))
    if not rows:
        return None
    labels = [group.label for group in comparison.groups]
    gaussian = [f"Gaussian denoiser, {label}" if len(labels) > 1 else "Gaussian denoiser" for label in labels]
    nulls = [f"null, {label}" if len(labels) > 1 else "null" for label in labels]
    header = ("", *labels, *(gaussian if len(kinds) > 1 else []), *nulls)
    return Table(name, caption + " " + _steps_in_words(comparison, probe), header, tuple(rows))


def _steps_in_words(comparison: Comparison, probe: str) -> str:
    found = [last_values(group, _any_value(probe)) for group in comparison.groups]
    steps = sorted({last[0] for last in found if last})
    return f"At step {', '.join(map(str, steps))}; mean ± std over runs (number of runs)."


def _any_value(probe: str) -> Select:
    return lambda run: dict.fromkeys(run.own.values(probe), 1.0)


def curves(comparison: Comparison, probe: str, name: str, text: str) -> Figure | None:
    """One panel a value, with null and Gaussian denoiser; None where nothing changes with the step."""
    keys = value_keys(comparison, probe)
    chosen = [k for k in keys if not k.endswith(_NULL) and not any(part in k for part in _SETTINGS)][:_MOST_PANELS]
    panels = [
        panel(
            comparison,
            key.replace("_", " "),
            _unit(key),
            own(probe, key),
            own(probe, null_key(keys, key)),
            of_kind("gaussian", probe, key),
        )
        for key in chosen
    ]
    panels = [one for one in panels if one.has_curves]
    if not panels:
        return None
    alt = in_words(comparison, [(key.replace("_", " "), own(probe, key)) for key in chosen])
    caption = joined([text, "Dashed: the null.", how_computed(comparison, probe)])
    return Figure(name, draw(panels), caption, f"Curves against training step: {alt}.")


def _unit(key: str) -> str:
    if key.endswith("_deg"):
        return "degrees"
    if key.endswith("_seconds"):
        return "seconds"
    return "share" if key.endswith("_share") else "value"


def by_step(comparison: Comparison, probe: str, name: str, kind: str = "own") -> Table | None:
    """All values of a probe by training step; one line a step and group."""
    keys = value_keys(comparison, probe, kind)
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
    return Table(name, f"{probe}{where} by training step; mean ± std over runs (number of runs).", header, tuple(rows))


def spread_note(groups: tuple[Group, ...]) -> str:
    """How means over runs are meant, where there are any."""
    if all(len(group.runs) == 1 for group in groups):
        return ""
    return (
        "± is the sample standard deviation over runs (n - 1); thin curves are single runs, bold ones their mean at "
        "the steps that all of them have, and the band is one standard deviation."
    )
