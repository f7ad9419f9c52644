"""Which runs a report is about, how their training went, and what other probes recorded."""

from __future__ import annotations

from typing import Any

from probediff.report.curves import draw, in_words, panel
from probediff.report.groups import Comparison, last_estimate, own
from probediff.report.measured import by_step, spread_note
from probediff.report.parts import Figure, Section
from probediff.report.sources import Run, config_value
from probediff.report.tables import Cell, Table
from probediff.runs.folder import END_OF_EVENT, FINISHED

_TRAINING = "training"
_BOOKKEEPING = frozenset({END_OF_EVENT, FINISHED, "pass"})
#: Probes whose own sections hold their values by training step.
_SHOWN = frozenset({"latent_normality", "noise_image_map", "latent_interpolation", "sample_quality"})
_CONVENTIONS = ("num_samples", "num_steps", "convention", "clip", "clip_inversion", "weights", "noise_seed")


def overview(comparison: Comparison) -> Section:
    """Runs, their states and conventions."""
    header = ("run", "group", "state", "last step", "of", "training seed", "data", "N", "DDIM steps", "convention",
              "clip", "clip inversion", "weights", "noise seed", "other probe folders")  # fmt: skip
    rows = [_overview_row(group.label, run) for group in comparison.groups for run in group.runs]
    caption = "The runs of this report; what differs between records of one run is listed with a slash."
    text = [
        f"{_counted(len(comparison.runs), 'run')} in {_counted(len(comparison.groups), 'group')}. Runs of one group "
        f"have the same configuration except the seed, or the same value of the key that they were grouped by.",
        spread_note(comparison.groups),
        "Beside the runs' own figures: the null (what chance or white noise gives; dashed), the Gaussian denoiser (the "
        "exact denoiser of Gaussian data with the same mean and covariance, from `probediff probe`; dash-dotted) and "
        "published values of P1, There and Back Again (dotted), each where it exists.",
    ]
    tables = (Table("overview", caption, header, tuple(rows)),)
    details = tuple(_provenance(comparison))
    return Section("overview", "Overview", tuple(t for t in text if t), (), tables, _same_seeds(comparison), details)


def _same_seeds(comparison: Comparison) -> tuple[str, ...]:
    """Runs that are averaged as if they were independent and are not."""
    said = []
    for group in comparison.groups:
        by_seed: dict[Any, list[str]] = {}
        for run in group.runs:
            by_seed.setdefault(config_value(run.config, "seed_everything"), []).append(run.name)
        said += [
            f"{', '.join(names)} have the same training seed, {seed}: their spread is not one over seeds."
            for seed, names in by_seed.items()
            if seed is not None and len(names) > 1
        ]
    return tuple(said)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _overview_row(label: str, run: Run) -> tuple[Cell, ...]:
    seed = config_value(run.config, "seed_everything")
    folders = ", ".join(dict.fromkeys(f"{p.path.parent.name}/{p.path.name}" for p in run.extra))
    last: Cell = run.own.last_step
    told = (_told(run, key) for key in _CONVENTIONS)
    return (run.name, label, run.state, last, run.max_steps, None if seed is None else str(seed),
            run.data or run.data_class, *told,
            folders or None)  # fmt: skip


def _told(run: Run, key: str) -> str | None:
    values: dict[Any, None] = dict.fromkeys(str(c[key]) for c in run.own.conventions() if key in c)
    yes_no = {"True": "yes", "False": "no"}
    return " / ".join(yes_no.get(v, v) for v in values) or None


def _provenance(comparison: Comparison) -> list[Table]:
    keys = list(dict.fromkeys(key for run in comparison.runs for key in run.provenance if "==" not in key))
    if not keys:
        return []
    rows = [(run.name, *(run.provenance.get(key) for key in keys)) for run in comparison.runs]
    return [Table("provenance", "Versions, commit and machine of each run.", ("run", *keys), tuple(rows))]


def training(comparison: Comparison) -> Section:
    """Loss and speed."""
    told = [("mean loss since the last checkpoint", own(_TRAINING, "loss_mean"))]
    told += [("speed", own(_TRAINING, "steps_per_second"))]
    panels = [
        panel(comparison, title, unit, select)
        for (title, select), unit in zip(told, ("loss", "training steps per second"), strict=True)
    ]
    missing = [] if any(select(run) for run in comparison.runs for _, select in told) else ["No run recorded its loss."]
    if not any(one.has_curves for one in panels):
        return Section("training", "Training", missing=tuple(missing))
    rows = tuple(
        (group.label, last_estimate(group, told[0][1]), last_estimate(group, told[1][1])) for group in comparison.groups
    )
    table = Table("training", "At the last checkpoint.", ("runs", "mean loss", "steps per second"), rows)
    caption = "Training loss, averaged over the steps since the checkpoint before, and speed."
    figure = Figure("training", draw(panels), caption, f"Curves: {in_words(comparison, told)}.")
    return Section("training", "Training", (), (figure,), (table,), tuple(missing))


def all_values(comparison: Comparison) -> Section:
    """Every value of every probe by training step, those that the report knows nothing else about included."""
    tables, errors = [], []
    for kind, left_out in (("own", _SHOWN), ("final_samples", frozenset()), ("images", frozenset())):
        folders = [(run.name, p) for run in comparison.runs for p in run.of_kind(kind)[:1]]
        for name in dict.fromkeys(name for _, p in folders for name in p.probe_names()):
            if name in _BOOKKEEPING | left_out:
                continue
            tables.append(by_step(comparison, name, _stem(f"steps_{kind}_{name}"), kind))
            for run_name, p in folders:
                said = p.errors(name).items()
                errors += [f"{run_name}: {name} had no result at step {step}: {why}" for step, why in said]
    text = ("Every value as it was recorded, also of probes that have no figure.",)
    found = tuple(table for table in tables if table)
    return Section("all-values", "All values by training step", text, (), (), tuple(dict.fromkeys(errors)), found)


def _stem(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in name)
