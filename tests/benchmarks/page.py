"""The result as a table for the terminal and as a Markdown page."""

from __future__ import annotations

from typing import Any

_HEAD = ("case", "figure", "faster than", "of the limit", "memory")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cells(figure: dict[str, Any]) -> list[str]:
    ratios = "; ".join(f"{name} {_number(ratio)}x" for name, ratio in figure["ratios"].items())
    limit = "" if figure["limit"] is None else f"{100 * figure['limit']:.0f} %"
    memory = "" if figure["memory_gib"] is None else f"{figure['memory_gib']:.2f} GiB"
    return [figure["case"], f"{_number(figure['value'])} {figure['unit']}", ratios, limit, memory]


def table(figures: list[dict[str, Any]]) -> str:
    """One block of lines for a terminal."""
    rows = [_cells(figure) for figure in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = []
    for figure, row in zip(figures, rows, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
        if figure["note"]:
            lines.append(f"    {figure['note']}")
    return "\n".join(lines)


def _markdown_table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def growth_rows(growth: list[dict[str, Any]]) -> list[list[str]]:
    """Cells of the growth table."""
    rows = []
    for row in growth:
        sizes = f"{row['along']} = {row['sizes'][0]:,} .. {row['sizes'][-1]:,}"
        last = row["seconds"][-1]
        memory = "too little to see" if row["memory_exponent"] is None else f"{row['memory_exponent']:.2f}"
        took = f"{last:.3g} s" if last >= 0.01 else f"{1e3 * last:.3g} ms"
        rows.append([row["what"], sizes, f"{row['time_exponent']:.2f}", f"{row['work_exponent']:g}", memory, took])
    return rows


GROWTH_HEAD = ("what", "over", "time exponent", "of its matrix products", "memory exponent", "at the largest")


def markdown(result: dict[str, Any]) -> str:
    """The whole page."""
    found, rates = result["machine"], result["rates"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    device = found.get("gpu") or f"{found['cores']} cores of an {found['processor']} processor"
    bfloat16 = "with" if found["bfloat16_instructions"] else "without"
    parts = [
        "# Benchmarks",
        f"Made by `make bench` on {device}, {bfloat16} bfloat16 instructions, {found['memory_gib']} GiB of memory, "
        f"{found['system']}, Python {found['python']}, {versions}, in {result['minutes']:.0f} minutes. "
        'Every comparison was made in one process in turns; "2x" means that this project took half the time. '
        "The limit is the rate of a large matrix product of the same precision on the same machine, measured in turns "
        f"with the rest: about {rates['float32_gflops']:,.0f} GFLOP/s in float32, {rates['bfloat16_gflops']:,.0f} in "
        f"bfloat16, {rates['float64_gflops']:,.0f} in float64. A single 3 x 3 convolution of 256 channels reaches "
        f"{rates['float32_convolution_gflops']:,.0f} and {rates['bfloat16_convolution_gflops']:,.0f} (float32, "
        "bfloat16), so that networks may pass the limit. Large copies run at "
        f"{rates['copy_gb_per_second']:.0f} GB/s, read and written.",
        "denoising-diffusion-pytorch has a network of its own with half of the operations, so compare its share of "
        "the limit. improved-diffusion, which is measured where its code is on PYTHONPATH, trains in float32; where "
        "its name says so, ours is in bfloat16 beside it. "
        "Probes evaluate in float32 whatever the training's precision is.",
    ]
    for section in dict.fromkeys(figure["section"] for figure in result["figures"]):
        figures = [figure for figure in result["figures"] if figure["section"] == section]
        rows = [[*_cells(figure), figure["note"]] for figure in figures]
        used = [i for i in range(len(_HEAD) + 1) if any(row[i] for row in rows)]
        head = (*_HEAD, "note")
        parts += [
            f"## {section.capitalize()}",
            _markdown_table(tuple(head[i] for i in used), [[r[i] for i in used] for r in rows]),
        ]
    if "growth" in result:
        parts += ["## Growth", _markdown_table(GROWTH_HEAD, growth_rows(result["growth"]))]
    return "\n\n".join(parts) + "\n"
