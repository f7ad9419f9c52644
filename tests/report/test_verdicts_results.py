"""Verdicts on what `whitening`, `search-noise`, `vary` and `edit` left below a run, whole and damaged."""

from __future__ import annotations

import json
import statistics
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.report.verdict_runs import judged, outcomes, verdicts_of, write, write_editing, write_verdict_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One in which all holds."""
    return write_verdict_run(tmp_path / "run", True)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"first_step": 3, "transforms": [1], "relation": []}', "null"])
@pytest.mark.parametrize("name", ["whitening/whitening.json", "search/search_noise.json", "edit/edit.json"])
def test_damaged_results_decide_nothing(run: Path, name: str, text: str) -> None:
    (run / "probes" / name).write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcomes(judged(run))
    of_file = {"whitening": "P2-F5c", "search": "P2-E10", "edit": "P2-F10"}[name.partition("/")[0]]
    assert found[of_file].verdict == "undecided" and "`probediff " in found[of_file].reason
    assert found["P1-T1"].verdict == "agrees"


@pytest.mark.parametrize(
    "damage",
    [
        {"checks": 3},
        {"checks": [3, {"check": "mean", "value": "x"}], "conventions": []},
        {"checks": None, "conventions": {"loss": "forward"}},
    ],
)
def test_results_of_another_shape_are_no_fault(run: Path, damage: dict[str, Any]) -> None:
    write(run / "probes/search/search_noise.json", **damage)
    outcome = outcomes(judged(run))["P2-E10"]
    assert outcome.verdict == "undecided" and "`probediff " in outcome.reason


def test_few_images_have_no_error_over_images(run: Path) -> None:
    for path in run.rglob("edit.json"):
        values = json.loads(path.read_text())
        for row in values["edits"]:
            row["ssim_of_each"] = row["ssim_of_each"][:9]
        path.write_text(json.dumps(values))
    outcome = outcomes(judged(run))["P2-F10"]
    assert outcome.verdict == "undecided" and outcome.reason.startswith("9 images are too few")


def test_errors_over_images_are_those_of_the_paired_difference(run: Path) -> None:
    """Images that differ by much, and found noise that is better by 0.1 ± 0.01 on each."""
    base = [0.1 * k for k in range(10)]
    gain = [0.1 + 0.01 * (-1) ** k for k in range(10)]
    edits = [
        {"strength": 0.5, "noise": "random", "ssim_of_each": [[value] for value in base]},
        {"strength": 0.5, "noise": "found", "ssim_of_each": [[a + b] for a, b in zip(base, gain, strict=True)]},
    ]
    told = json.loads((run / "probes/edit/edit.json").read_text())["conventions"]
    write(run / "probes/edit/edit.json", conventions=told, edits=edits)
    (claim,) = outcomes(judged(run))["P2-F10"].claims
    assert claim.number is not None and claim.null == pytest.approx(0.45)
    assert claim.number.value == pytest.approx(0.55)
    assert claim.number.error == pytest.approx(0.01 * (10 / 9) ** 0.5 / 10**0.5)
    assert claim.verdict == "agrees"


def test_results_of_another_run_are_not_this_ones(run: Path) -> None:
    write_editing(run, False, 0.0, "another", "step 4000")
    for path in run.rglob("vary.json"):
        values = json.loads(path.read_text())
        for model in values["models"]:
            model["model"] = model["model"].replace("run ", "other ")
        path.write_text(json.dumps(values))
    assert outcomes(judged(run))["P2-F9"].claims[0].number is None


@pytest.mark.parametrize(("step", "verdict"), [(400, "undecided"), (4000, "agrees")])
def test_results_of_an_earlier_checkpoint_are_not_those_of_the_end(run: Path, step: int, verdict: str) -> None:
    for path in [*run.glob("probes/vary*/vary.json"), run / "probes/whitening/whitening.json", *run.rglob("edit.json")]:
        values = json.loads(path.read_text())
        values["conventions"]["step"] = step
        for model in values.get("models", ()):
            model["conventions"]["step"] = step
        path.write_text(json.dumps(values))
    found = outcomes(judged(run))
    for key in ("P2-F2a", "P2-F5c", "P2-F7", "P2-F9", "P2-F10"):
        assert found[key].verdict == verdict, key


def test_slopes_of_gains_that_are_not_known_say_nothing(run: Path) -> None:
    path = run / "probes/whitening/whitening.json"
    values = json.loads(path.read_text())
    values["first_step"][-1]["model"]["significant_share"] = 0.2
    path.write_text(json.dumps(values))
    outcome = outcomes(judged(run))["P2-F5c"]
    assert outcome.verdict == "undecided" and "only 20% of the gains stand out" in outcome.reason


def test_the_size_of_the_noises_gives_the_error_of_the_variance(run: Path) -> None:
    path = run / "probes/whitening/whitening.json"
    values = json.loads(path.read_text())
    values["whiteness"]["standard_errors"].pop("mean_variance")
    values["whiteness"]["mean_variance"] = 4.0
    values["first_step"][-1]["model"] |= {"noise_rms": 2.0, "standard_errors": {"noise_rms": 0.05}}
    path.write_text(json.dumps(values))
    claim = outcomes(judged(run))["P2-F5b"].claims[0]
    assert claim.number is not None and claim.number.error == pytest.approx(2 * 4.0 * 0.05 / 2.0)


def test_errors_of_paired_noises_follow_from_their_spread(run: Path) -> None:
    """Of results that have the standard deviation over samples and no errors."""
    path = run / "probes/whitening/whitening.json"
    values = json.loads(path.read_text())
    values["relation"] = {
        "num_samples": 100.0,
        **{"paired_pearson": 0.3, "paired_pearson_std": 0.03, "random_pearson": 0.0, "random_pearson_std": 0.04},
    }
    path.write_text(json.dumps(values))
    claim = outcomes(judged(run))["P2-F2a"].claims[0]
    assert claim.number is not None and claim.number.error == pytest.approx(0.005)
    assert claim.verdict == "agrees"


def test_an_exact_denoiser_that_was_only_analysed_is_judged_too(run: Path) -> None:
    values = json.loads((run / "probes/whitening/whitening.json").read_text())
    told = values["conventions"] | {"denoiser": "nearest"}
    write(run / "probes/exact-nearest/whitening/whitening.json", **values | {"conventions": told})
    found = {verdicts.label: verdicts_of(verdicts.outcomes) for verdicts in judged(run).exact}
    assert found["nearest"]["P2-F5c"] == "agrees" and found["nearest"]["P1-T1"] == "undecided"


def test_what_varies_over_seeds_is_the_difference_of_pairs(tmp_path: Path) -> None:
    """Found noises give 0.5 with every seed, random ones 0.3, 0.7 and 0.2: who is better depends on the seed."""
    runs = [write_verdict_run(tmp_path / f"run{seed}", True, seed=seed) for seed in range(3)]
    others = (0.3, 0.7, 0.2)
    for run, random in zip(runs, others, strict=True):
        told = json.loads((run / "probes/edit/edit.json").read_text())["conventions"]
        pairs = {"random": random, "found": 0.5}
        edits = [
            {"strength": 0.5, "noise": kind, "ssim_of_each": [[mean + 0.001 * k] for k in range(12)]}
            for kind, mean in pairs.items()
        ]
        write(run / "probes/edit/edit.json", conventions=told, edits=edits)
    (claim,) = outcomes(judged(*runs))["P2-F10"].claims
    assert claim.number is not None and claim.number.error == pytest.approx(statistics.stdev(others) / 3**0.5)
    assert claim.verdict == "undecided"
