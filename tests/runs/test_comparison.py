"""What ``compare.json`` says, in order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probediff.runs.comparison import means_by_predictor, shared_steps


def mean(predictor: str, step: int, r2: float | None, num_runs: int = 2, denoiser: str = "") -> dict[str, Any]:
    values = {} if r2 is None else {"r2": r2}
    which = {"denoiser": denoiser, "images": 9} if denoiser else {}
    return {"predictor": predictor, **which, "step": step, "values": values, "num_runs": num_runs}


MEANS = [
    mean("own final samples", 0, 0.99),
    *(mean("denoiser", 0, 0.5, denoiser=name) for name in "abc"),
    mean("denoiser", 10, 0.3, denoiser="a"),
    mean("denoiser", 10, 0.4, denoiser="b"),
    mean("denoiser", 10, None, denoiser="c"),
    mean("another seed", 10, 0.1),
    # A step of one run only.
    *(mean("denoiser", 20, r2, 1, name) for name, r2 in (("a", 0.9), ("b", 0.1))),
]


def test_the_best_denoiser_at_the_last_step_that_all_runs_have_comes_first() -> None:
    result = json.loads(json.dumps({"means": MEANS}))
    assert shared_steps(result) == [0, 10]
    found = means_by_predictor(result)
    assert [(kind, name) for kind, name, _ in found] == [
        *(("denoiser", name) for name in "bac"),
        *((kind, "") for kind in ("another seed", "own final samples")),
    ]
    assert [list(by_step) for by_step in found.values()] == [[0, 10], [0, 10], [0, 10], [10], [0]]
    assert found["denoiser", "b", 9][10]["values"]["r2"] == 0.4


@pytest.mark.parametrize("result", [{}, {"means": []}, {"means": [mean("oracle", 0, 1.0)]}, {"means": [{}]}])
def test_what_is_damaged_is_an_error_that_readers_know(result: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, AttributeError, ValueError)):
        means_by_predictor(result)
