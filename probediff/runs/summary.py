"""Plain-text tables for the terminal: any table, and a run's records with one table a probe."""

from collections.abc import Sequence
from typing import Any

from probediff.display.text import printable, round_by_error
from probediff.runs.definitions import find_redefined
from probediff.runs.descriptions import Description
from probediff.runs.folder import CHECKPOINTS, PICTURES, WANDB, RunFolder
from probediff.runs.record import STANDARD_ERRORS, Record

#: Of probes whose description chooses none.
_MOST_COLUMNS = 8


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4g}"
    return printable(str(value))


def format_table(header: list[str], rows: list[list[Any]], num_left: int = 0) -> str:
    """Columns under a header: the first ``num_left`` to the left, the others to the right."""
    cells = [[_cell(word) for word in header], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    lines = ["  ".join(f"{c:{'<' if k < num_left else '>'}{widths[k]}}" for k, c in enumerate(line)) for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _number_with_error(value: float | None, error: float | None) -> Any:
    """``0.788±0.012``: the error with two significant digits; the value alone where there is none."""
    if value is None or error is None:
        return value
    return f"{round_by_error(value, error)}±{round_by_error(error, error)}" if error else f"{_cell(value)}±0"


def probe_tables(folder: RunFolder) -> str:
    """Every probe of a run's records by training step, each number with its standard error where it has one."""
    by_probe: dict[str, dict[int, Record]] = {}
    records = folder.records()
    earlier = _earlier_definitions(records)
    for record in records:
        by_probe.setdefault(record["probe"], {})[record["step"]] = record
    catalogue = folder.catalogue()
    parts = []
    for probe, by_step in by_probe.items():
        description = catalogue.get(probe, Description(probe))
        columns = [column.key for column in description.columns if column.in_table]
        if not columns and not description.is_bookkeeping:
            columns = list(dict.fromkeys(name for r in by_step.values() for name in r["values"]))[:_MOST_COLUMNS]
        rows = [
            [step, *(_number_with_error(r["values"].get(name), r[STANDARD_ERRORS].get(name)) for name in columns)]
            for step, r in sorted(by_step.items())
        ]
        if columns or not description.is_bookkeeping:
            parts.append(f"{printable(probe)}\n{format_table(['step', *columns], rows)}")
            parts[-1] += "".join(f"\n{line}" for line in earlier[probe])
    return "\n\n".join(parts)


def _earlier_definitions(records: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """By probe, a line for each quantity that some steps have as an earlier version computed it."""
    steps: dict[str, dict[str, list[int]]] = {}
    for record in records:
        by_key = steps.setdefault(record["probe"], {})
        for key in find_redefined(record["probe"], record["conventions"]).keys() & record["values"].keys():
            by_key.setdefault(key, []).append(record["step"])
    return {
        probe: [f"{key} of another definition at step {', '.join(map(str, found))}" for key, found in by_key.items()]
        for probe, by_key in steps.items()
    }


def describe_failures(folder: RunFolder) -> list[str]:
    """A line for each probe that had no result somewhere, with the steps and the last reason."""
    failed: dict[str, dict[int, str]] = {}
    for record in folder.records():
        if record.get("error"):
            failed.setdefault(record["probe"], {})[record["step"]] = record["error"]
    lines = [
        f"{probe} has no result, or only a part, at step {', '.join(map(str, sorted(errors)))}: {errors[max(errors)]}"
        for probe, errors in failed.items()
    ]
    if words := folder.wiring().get("words"):
        lines.append(f"{words} (step {folder.wiring().get('step')})")
    return [printable(line, keep="\n") for line in lines]


def run_summary(folder: RunFolder) -> str:
    """What a user wants to know when a run has ended: the tables, and where everything is."""
    wandb_folder = folder.path / WANDB
    lines = [
        probe_tables(folder),
        "",
        *describe_failures(folder),
        f"The run lies in {folder.path}",
        f"  pictures     {folder.path / PICTURES}",
        f"  records      {folder.records_path}",
        f"  checkpoints  {folder.path / CHECKPOINTS}",
    ]
    if wandb_folder.is_dir():
        lines.append(f"  dashboard    wandb leet {wandb_folder / 'latest-run'}   (upload: wandb sync)")
    return "\n".join(lines)
