"""A run's records as plain tables: one a probe, one line a training step."""

from __future__ import annotations

from typing import Any

from probediff.runs.folder import FINISHED, RunFolder

#: Columns of the probes that have more values than fit a line; other probes show their first ones.
_COLUMNS = {
    "inversion_angles": (
        "at_noise_mean_deg",
        "at_image_mean_deg",
        "at_latent_mean_deg",
        "distance_noise_image_mean",
        "distance_image_latent_mean",
        "distance_noise_latent_mean",
        "latent_mean",
        "latent_std",
    ),
    "assignment_accuracy": (
        "image_to_noise",
        "noise_to_image",
        "image_to_noise_top5",
        "noise_to_image_top5",
        "null",
        "largest_hub_share",
    ),
    "whitening": ("slope", "slope_gaussian", "zca_r2_scaled", "zca_r2_scaled_gaussian", "significant_share"),
    "timing": ("pass_seconds",),
}
_MOST_COLUMNS = 8
#: Bookkeeping that is no measurement.
_LEFT_OUT = ("pass", FINISHED)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4g}"
    return str(value)


def format_table(header: list[str], rows: list[list[Any]]) -> str:
    """Right-aligned columns under a header."""
    cells = [header, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def probe_tables(records: list[dict[str, Any]]) -> str:
    """Every probe by training step."""
    by_probe: dict[str, dict[int, dict[str, Any]]] = {}
    for record in (r for r in records if r["probe"] not in _LEFT_OUT):
        by_probe.setdefault(record["probe"], {})[record["step"]] = record["values"]
    parts = []
    for probe, by_step in by_probe.items():
        names = list(dict.fromkeys(name for values in by_step.values() for name in values))
        columns = list(_COLUMNS.get(probe, names[:_MOST_COLUMNS]))
        rows = [[step, *(values.get(name) for name in columns)] for step, values in sorted(by_step.items())]
        parts.append(f"{probe}\n{format_table(['step', *columns], rows)}")
    return "\n\n".join(parts)


def run_summary(folder: RunFolder) -> str:
    """What a user wants to know when a run has ended: the tables, and where everything is."""
    wandb_folder = folder.path / "wandb"
    lines = [
        probe_tables(folder.records()),
        "",
        f"The run lies in {folder.path}",
        f"  pictures     {folder.path / 'pictures'}",
        f"  records      {folder.records_path}",
        f"  checkpoints  {folder.path / 'checkpoints'}",
    ]
    if wandb_folder.is_dir():
        lines.append(f"  dashboard    wandb leet {wandb_folder / 'latest-run'}   (upload: wandb sync)")
    return "\n".join(lines)
