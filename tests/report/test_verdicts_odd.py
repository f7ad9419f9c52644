"""Verdicts where runs are unfinished, published, replayed, or measured otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import write_records
from tests.report.verdict_runs import (
    KEYS,
    LAST,
    OF_EXACT,
    SMALL,
    Values,
    final_values,
    judged,
    lines_of,
    outcomes,
    records,
    remake,
    verdicts_of,
    write_lines,
    write_verdict_run,
)

ASSIGNMENT = "assignment_accuracy"
ANGLES: Values = {"at_image_mean_deg": 30.0, "at_latent_mean_deg": 120.0, "distance_noise_latent_mean": 30.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One in which all holds."""
    return write_verdict_run(tmp_path / "run", True)


def test_a_training_that_goes_on_has_no_verdict_yet(tmp_path: Path) -> None:
    found = judged(write_verdict_run(tmp_path / "run", True, finished=False))
    early = {key for key, verdict in verdicts_of(found.network.outcomes).items() if verdict == "undecided"}
    # Found noises belong to no model.
    assert set(KEYS) - early == {"P2-E10"}
    reason = outcomes(found)["P1-T1"].reason
    assert "has not ended: run is at step 4000 of 4000 (so far: agrees)" in reason and "--resume auto" in reason
    assert verdicts_of(found.exact[0].outcomes) == dict.fromkeys(OF_EXACT, "agrees")


def test_a_network_that_was_not_trained_at_all_says_nothing(run: Path) -> None:
    def edit(line: dict[str, Any]) -> dict[str, Any] | None:
        return line | {"step": 0} if line["probe"] == "run" or line["step"] == 0 else None

    shutil.rmtree(run / "probes")
    outcome = outcomes(judged(remake(run, edit)))["P1-T1"]
    assert outcome.verdict == "undecided" and "nothing was trained: run ended at step 0" in outcome.reason


def test_what_was_probed_before_the_end_is_not_taken_for_it(run: Path) -> None:
    """The training ended at step 4000, its last whole event is of step 2000."""
    shutil.rmtree(run / "probes")
    remake(run, lambda line: None if line["step"] == LAST and line["probe"] != "run" else line)
    with (run / "records.jsonl").open("a") as file:
        file.write('{"step": 2000, "probe": "timing", "values": {}, "conventions": {}}\n')
    assert outcomes(judged(run))["P1-T1"].claims[0].number is None


def test_a_model_that_was_not_trained_here_has_no_statements_about_training(tmp_path: Path) -> None:
    for num_steps in (10, 100):
        values = final_values(True)[ASSIGNMENT] | {"noise_to_image": 0.94 if num_steps == 10 else 0.5}
        told: dict[str, Any] = {"num_steps": num_steps, "model": "cifar10"}
        lines = records(ASSIGNMENT, {0: values}, SMALL, **told)
        lines += records("inversion_angles", {0: final_values(True)["inversion_angles"]}, SMALL, **told)
        write_lines(tmp_path / "cifar10" / f"num_steps={num_steps:04d}", lines)
    found = outcomes(judged(tmp_path / "cifar10"))
    assert {key for key, outcome in found.items() if outcome.verdict == "agrees"} == {
        *("P1-F2a", "P1-F2b", "P1-T2a", "P1-T2b", "P1-F7", "C-F7")
    }
    assert "was not trained here" in found["P1-F4"].reason and "`probediff fit" in found["P1-F4"].reason
    assert not found["P1-F4"].claims


def test_a_number_that_is_missing_at_the_end_is_not_taken_from_before(run: Path) -> None:
    """A training that diverged: its last numbers are null."""

    def edit(line: dict[str, Any]) -> dict[str, Any]:
        if line["probe"] == "inversion_angles" and line["step"] == LAST:
            line["values"] = dict.fromkeys(line["values"])
            line.pop("standard_errors")
        return line

    outcome = outcomes(judged(remake(run, edit)))["P1-F2b"]
    assert outcome.verdict == "undecided" and outcome.claims[0].number is None


def test_a_replay_with_the_same_settings_lends_its_errors(tmp_path: Path) -> None:
    run = write_verdict_run(tmp_path / "run", True, None)
    assert outcomes(judged(run))["P1-F2b"].verdict == "undecided"
    value: Values = {"at_latent_mean_deg": 121.0}
    replay = run / "probes/replay/num_steps=0100"
    write_lines(replay, records("inversion_angles", {LAST: value}, SMALL))
    (claim,) = outcomes(judged(run))["P1-F2b"].claims
    assert claim.number is not None and (claim.number.value, claim.number.error) == (121.0, SMALL)
    assert claim.verdict == "agrees"
    # Not one of another N, whose numbers are others.
    write_lines(replay, records("inversion_angles", {LAST: value}, SMALL, num_samples=500))
    assert outcomes(judged(run))["P1-F2b"].verdict == "undecided"


def test_an_earlier_definition_does_not_count(run: Path) -> None:
    def edit(line: dict[str, Any]) -> dict[str, Any]:
        line["conventions"].pop("definitions", None)
        return line

    found = outcomes(judged(remake(run, edit)))
    undecided = {key for key, outcome in found.items() if outcome.verdict == "undecided"}
    # The null of correlations, the variance of hubs, and SSIM, which SVCCA is compared with.
    assert undecided == {"P1-T1", "P1-F7", "P1-F6b"}
    assert str(found["P1-T1"].claims[0].region) == "more than 5 % above the null"


def test_without_wrong_captures_nothing_is_said_of_them(run: Path) -> None:
    def edit(line: dict[str, Any]) -> dict[str, Any]:
        if line["probe"] == ASSIGNMENT:
            line["values"]["noise_to_image"] = 1.0
        return line

    found = outcomes(judged(remake(run, edit)))
    for key in ("P1-F7", "C-F7"):
        assert found[key].verdict == "undecided"
        assert found[key].reason.startswith("every noise is nearest to its own image")


def test_few_samples_speak_against_assignment_and_not_for_it(tmp_path: Path) -> None:
    for holds, verdict in ((True, "undecided"), (False, "disagrees")):
        run = write_verdict_run(tmp_path / str(holds), holds)
        for folder in (run, run / "probes/replay/num_steps=0010", run / "probes/final_samples/num_steps=0100"):
            text = (folder / "records.jsonl").read_text()
            (folder / "records.jsonl").write_text(text.replace('"num_samples": 1000', '"num_samples": 200'))
        outcome = outcomes(judged(run))["P1-T2a"]
        assert outcome.verdict == verdict
        assert ("N = 200 it is easier than among P1's 1000" in outcome.reason) == holds
        # A replay with P1's N decides, whatever its steps.
        values: Values = {"image_to_noise": 0.6, "noise_to_image": 0.5}
        write_lines(run / "probes/replay/num_steps=0250", records(ASSIGNMENT, {LAST: values}, SMALL, num_steps=250))
        (claim,) = outcomes(judged(run))["P1-T2a"].claims
        assert claim.quantity == "image → noise at 250 DDIM steps, N = 1000" and claim.verdict == "disagrees"


@pytest.mark.parametrize("other", [{"num_samples": 500}, {"convention": "diffusers"}, {"clip": False}])
def test_numbers_of_steps_are_compared_at_one_setting(run: Path, other: dict[str, Any]) -> None:
    few: Values = {"noise_to_image": 0.94, "image_to_noise": 0.9}
    path = run / "probes/replay/num_steps=0010"
    write_lines(path, records(ASSIGNMENT, {LAST: few}, SMALL, num_steps=10, **other))
    outcome = outcomes(judged(run))["P1-T2b"]
    assert outcome.verdict == "undecided" and "no assignments with 10 times as many" in outcome.reason
    # Neither is an earlier checkpoint.
    write_lines(path, records(ASSIGNMENT, {400: few}, SMALL, num_steps=10))
    assert outcomes(judged(run))["P1-T2b"].verdict == "undecided"
    # Nor are numbers of steps far enough apart to say that it does not fall.
    write_lines(path, records(ASSIGNMENT, {LAST: few}, SMALL, num_steps=50))
    assert outcomes(judged(run))["P1-T2b"].verdict == "undecided"


def similarities(run: Path, svcca: tuple[float, ...], others: tuple[float, ...]) -> Path:
    steps = (0, 40, 200, 400, 2000)

    def edit(line: dict[str, Any]) -> dict[str, Any]:
        if line["probe"] == "checkpoint_similarity_final":
            k = steps.index(line["step"])
            line["values"] = {"svcca": svcca[k], "cka": others[k], "ssim": others[k]}
            line["standard_errors"] = dict.fromkeys(line["values"], SMALL)
        return line

    return remake(run, edit)


@pytest.mark.parametrize(
    ("svcca", "others", "verdict"),
    [
        ((0.1, 0.95, 0.95, 0.95, 0.95), (0.1, 0.2, 0.95, 0.95, 0.95), "agrees"),
        # Both between steps 40 and 200.
        ((0.1, 0.2, 0.95, 0.95, 0.95), (0.1, 0.2, 0.95, 0.95, 0.95), "undecided"),
        ((0.1, 0.2, 0.3, 0.95, 0.95), (0.1, 0.2, 0.95, 0.95, 0.95), "disagrees"),
        # The others never get there.
        ((0.1, 0.2, 0.3, 0.4, 0.95), (0.1, 0.2, 0.3, 0.4, 0.5), "agrees"),
        # None does: at the end all are 1.
        ((0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5), "undecided"),
        # The others may be there as well, or may not be there yet.
        ((0.1, 0.95, 0.95, 0.95, 0.95), (0.1, 0.89999, 0.95, 0.95, 0.95), "undecided"),
        ((0.1, 0.2, 0.3, 0.95, 0.95), (0.1, 0.2, 0.90001, 0.95, 0.95), "undecided"),
        # Too near to 0.9 for the error.
        ((0.1, 0.90001, 0.95, 0.95, 0.95), (0.1, 0.2, 0.95, 0.95, 0.95), "undecided"),
    ],
)
def test_svcca_is_first_where_the_probed_steps_can_tell(
    run: Path, svcca: tuple[float, ...], others: tuple[float, ...], verdict: str
) -> None:
    outcome = outcomes(judged(similarities(run, svcca, others)))["P1-F6b"]
    assert outcome.verdict == verdict
    if svcca[1:3] == others[1:3]:
        words = "the probed steps cannot tell" if others[2] > 0.9 else "none of them is above 0.9 before the end"
        assert words in outcome.reason or verdict == "agrees"


def test_early_needs_a_step_between_the_start_and_its_end(run: Path) -> None:
    def edit(line: dict[str, Any]) -> dict[str, Any] | None:
        return None if 0 < line["step"] <= 400 else line

    found = outcomes(judged(remake(run, edit)))
    for key in ("P1-F5a", "P1-F5b"):
        assert found[key].verdict == "undecided" and "--probing.schedule.steps" in found[key].reason
    # Half of the training is not early: what is settled by then need not have been.
    for key in ("P1-F4", "P1-4.3", "P1-F6a"):
        assert found[key].verdict == ("undecided" if key == "P1-F6a" else "agrees"), key


def test_what_settles_is_known_before_and_soon_after_a_tenth(run: Path) -> None:
    """Angles that hardly change any more, where that is all that was probed; an end like what was shortly before."""
    lines = records("inversion_angles", {2000: ANGLES | {"at_image_mean_deg": 30.02}, LAST: ANGLES}, SMALL)
    late = records("inversion_angles", {400: ANGLES | {"at_image_mean_deg": 30.02}}, SMALL)
    final_samples = run / "probes/final_samples/num_steps=0100"
    for kept in (lines, late + lines):
        write_lines(final_samples, kept)
        outcome = outcomes(judged(run))["P1-F4"]
        assert outcome.verdict == "undecided" and "no such number is recorded" in outcome.reason
    write_lines(final_samples, lines)
    outcome = outcomes(judged(remake(run, lambda line: None if 0 < line["step"] < 2000 else line)))["P1-4.3"]
    assert outcome.verdict == "undecided" and "no such number" in outcome.reason


def test_an_untrained_network_is_no_beginning(run: Path) -> None:
    def edit(line: dict[str, Any]) -> dict[str, Any]:
        if line["probe"] == ASSIGNMENT and line["step"] == 0:
            line["values"]["image_to_noise"] = 0.001
        return line

    assert outcomes(judged(remake(run, edit)))["P1-F5a"].verdict == "agrees"


@pytest.mark.parametrize(("at_2000", "verdict"), [(0.5, "undecided"), (0.95, "disagrees")])
def test_a_fall_may_come_between_the_last_early_step_and_the_next(run: Path, at_2000: float, verdict: str) -> None:
    """Of a fall from 1 to 0.45 a tenth is done at 1 % of the training; what is at a tenth was not probed."""

    def edit(line: dict[str, Any]) -> dict[str, Any] | None:
        if line["probe"] == ASSIGNMENT and line["step"] in (40, 2000):
            line["values"]["noise_to_image"] = 0.945 if line["step"] == 40 else at_2000
        return None if line["step"] in (200, 400) else line

    outcome = outcomes(judged(remake(run, edit)))["P1-F5b"]
    assert outcome.verdict == verdict
    assert ("between the last step" in outcome.reason) == (verdict == "undecided")


def test_own_samples_are_not_averaged_with_final_ones(tmp_path: Path) -> None:
    runs = [write_verdict_run(tmp_path / f"run{seed}", True, seed=seed) for seed in (0, 1)]
    shutil.rmtree(runs[1] / "probes/final_samples")
    (claim,) = outcomes(judged(*runs))["P1-4.3"].claims
    assert claim.number is not None and claim.number.num_runs == 1 and "of the final samples" in claim.quantity


@pytest.mark.parametrize("other", [{"weights": "raw"}, {"ema_rate": 0.99}, {"noise_seed": 1}, {"dtype": "bfloat16"}])
def test_a_replay_of_other_weights_or_noises_lends_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    run = write_verdict_run(tmp_path / "run", True, None)
    lines = records("inversion_angles", {LAST: {"at_latent_mean_deg": 121.0}}, SMALL, **other)
    write_lines(run / "probes/replay/num_steps=0100", lines)
    assert outcomes(judged(run))["P1-F2b"].verdict == "undecided"


def test_old_records_of_plain_areas_have_their_ratio(run: Path) -> None:
    def edit(line: dict[str, Any]) -> dict[str, Any]:
        if line["probe"] == "latent_normality":
            names = ("inside", "outside", "inside_null", "outside_null")
            line["values"] = dict(zip((f"plain_area_{n}" for n in names), (1.0, 0.5, 0.6, 0.6), strict=True))
            line.pop("standard_errors")
        return line

    claims = outcomes(judged(remake(run, edit)))["P1-F1"].claims
    assert [claim.number and claim.number.value for claim in claims] == pytest.approx([2.0, 1.0])
    assert [claim.verdict for claim in claims] == ["undecided", "undecided"]


@pytest.mark.parametrize("line", ['{"step": 4000, "pro', ""])
def test_a_cut_line_and_records_of_odd_shape_are_no_fault(run: Path, line: str) -> None:
    with (run / "records.jsonl").open("a") as file:
        file.write(line)
    assert set(verdicts_of(judged(run).network.outcomes).values()) == {"agrees"}
    write_records(run, ("my_own_probe",), (5,), finished=True)
    assert "P1-T1" in outcomes(judged(run)) and lines_of(run)
