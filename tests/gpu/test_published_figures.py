"""docs/benchmarks/gpu.md says what docs/benchmarks/gpu.json holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "benchmarks" / "gpu.md"


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def cells() -> list[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and "---" not in line]
    return [cell.strip() for row in rows for cell in row.strip("|").split("|")[1:]]


def is_rounded(text: str, measured: list[float]) -> bool:
    """Whether ``text`` is one of the measured numbers with as many digits as it has."""
    digits = len(text.split("e")[0].partition(".")[2])
    form = f".{digits}e" if "e" in text else f".{digits}f"
    return any(float(format(number, form)) == float(text) for number in measured)


def test_every_figure_in_the_tables_was_measured() -> None:
    result = json.loads(PAGE.with_suffix(".json").read_text())
    measured = list(numbers(result))
    steps = [*result["training_steps"], *result["proof"]["steps"]]
    measured += [100 * step["share_of_rate"] for step in steps if "share_of_rate" in step]
    figures = [match for cell in cells() if (match := re.fullmatch(r"([\d.,e-]+)( ms| GiB| %)?", cell))]
    assert len(figures) > 80
    for figure in figures:
        assert is_rounded(figure[1].replace(",", ""), measured), figure[0]
