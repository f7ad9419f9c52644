"""Which runs a report is about, how their training went, and what other probes recorded."""

import hashlib
import re
from typing import Any

from probediff.report.curves import draw
from probediff.report.groups import Comparison, last_estimate
from probediff.report.latents import MEASURED
from probediff.report.measured import spread_note, values_by_step
from probediff.report.panels import Quantity, in_words, panel, tell_bands
from probediff.report.parts import Figure, Section
from probediff.report.sources import Run
from probediff.report.tables import Cell, Table
from probediff.runs.grouping import seed_of

_TRAINING = (
    Quantity("training", "loss_mean", "mean loss since the last checkpoint", "loss"),
    Quantity("training", "steps_per_second", "speed", "training steps per second"),
)
_LONGEST_STEM = 100
_CONVENTIONS = ("num_samples", "num_steps", "convention", "clip", "clip_inversion", "weights", "noise_seed")


def overview(comparison: Comparison) -> Section:
    """Runs, their states and conventions."""
    header = ("run", "group", "state", "last step", "of", "training seed", "data", "N", "DDIM steps", "convention",
              "clip", "clip inversion", "weights", "noise seed", "other probe folders")  # fmt: skip
    rows = [_overview_row(group.label, run) for group in comparison.groups for run in group.runs]
    caption = "The runs of this report; what differs between records of one run is listed with a slash."
    text = [
        f"{_count(len(comparison.runs), 'run')} in {_count(len(comparison.groups), 'group')}. Runs of one group "
        f"have the same configuration except the seed, or the same value of the key that they were grouped by.",
        spread_note(comparison),
        "Beside the runs' own figures: the null (what chance or white noise gives; dashed), the Gaussian denoiser (the "
        "exact denoiser of Gaussian data with the same mean and covariance, from `probediff probe`; dash-dotted), "
        "other exact denoisers (thin, in a light band) and published values of P1, There and Back Again (dotted), each "
        "where it exists.",
    ]
    text += [f"{run.name}: {words}." for run in comparison.runs if (words := run.own.folder.wiring().get("words"))]
    tables = (Table("overview", caption, header, tuple(rows)),)
    return Section("overview", "Overview", tuple(filter(None, text)), (), tables, _same_seeds(comparison),
                   _provenance(comparison))  # fmt: skip


def _same_seeds(comparison: Comparison) -> tuple[str, ...]:
    """Runs that are averaged as if they were independent and are not."""
    sentences = []
    for group in comparison.groups:
        by_seed: dict[Any, list[str]] = {}
        for run in group.runs:
            by_seed.setdefault(seed_of(run.config), []).append(run.name)
        sentences += [
            f"{', '.join(names)} have the same training seed, {seed}: their spread is not one over seeds."
            for seed, names in by_seed.items()
            if seed is not None and len(names) > 1
        ]
    return tuple(sentences)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _overview_row(label: str, run: Run) -> tuple[Cell, ...]:
    seed = seed_of(run.config)
    folders = ", ".join(dict.fromkeys("/".join(records.folder.path.parts[-2:]) for records in run.extra))
    conventions = (_convention_in_words(run, key) for key in _CONVENTIONS)
    return (run.name, label, run.state, run.own.last_step, run.max_steps, None if seed is None else str(seed),
            run.data or run.data_class, *conventions, folders or None)  # fmt: skip


def _convention_in_words(run: Run, key: str) -> str | None:
    values = dict.fromkeys(str(conventions[key]) for conventions in run.own.conventions() if key in conventions)
    return " / ".join({"True": "yes", "False": "no"}.get(value, value) for value in values) or None


def _provenance(comparison: Comparison) -> tuple[Table, ...]:
    keys = list(dict.fromkeys(key for run in comparison.runs for key in run.provenance if "==" not in key))
    if not keys:
        return ()
    rows = [(run.name, *(run.provenance.get(key) for key in keys)) for run in comparison.runs]
    return (Table("provenance", "Versions, commit and machine of each run.", ("run", *keys), tuple(rows)),)


def training(comparison: Comparison) -> Section:
    """Loss and speed."""
    panels = [panel(comparison, quantity) for quantity in _TRAINING]
    missing = () if comparison.keys("training") else ("No run recorded its loss.",)
    if not any(panel.has_curves for panel in panels):
        return Section("training", "Training", missing=missing)
    rows = tuple((g.label, *(last_estimate(g, quantity.select()) for quantity in _TRAINING)) for g in comparison.groups)
    table = Table("training", "At the last checkpoint.", ("runs", "mean loss", "steps per second"), rows)
    caption = "Training loss, averaged over the steps since the checkpoint before, and speed."
    caption += tell_bands(panels, _TRAINING[0].probe)
    figure = Figure("training", draw(panels), caption, f"Curves: {in_words(comparison, _TRAINING)}.")
    return Section("training", "Training", (), (figure,), (table,), missing)


def file_stem(words: str) -> str:
    """A file name of its own for any words: a digest follows where they had to be changed or cut."""
    stem = re.sub(r"[^\w-]", "_", words, flags=re.ASCII)[:_LONGEST_STEM]
    return stem if stem == words else f"{stem}-{hashlib.sha256(words.encode(errors='replace')).hexdigest()[:8]}"


def all_values(comparison: Comparison) -> Section:
    """Every value of every probe by training step, those that the report knows nothing else about included."""
    tables, errors = [], []
    for kind in ("own", "final_samples", "images"):
        folders = [(run.name, records) for run in comparison.runs for records in run.of_kind(kind)[:1]]
        for probe in dict.fromkeys(probe for _, records in folders for probe in records.probe_names()):
            if comparison.describe(probe).is_bookkeeping or (kind == "own" and probe in MEASURED):
                continue
            tables.append(values_by_step(comparison, probe, file_stem(f"steps_{kind}_{probe}"), kind))
            for name, records in folders:
                lines = records.errors(probe).items()
                errors += [f"{name}: {probe} had no result at step {step}: {reason}" for step, reason in lines]
    text = ("Every value as it was recorded, also of probes that have no figure.",)
    missing = tuple(dict.fromkeys(errors))
    return Section("all-values", "All values by training step", text, (), (), missing, tuple(filter(None, tables)))
