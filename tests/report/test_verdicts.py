"""Verdicts on runs in which all statements hold, none does, or nothing is known; and on odd ones."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from probediff.models.exact import ExactModel
from probediff.report.groups import group_runs
from probediff.report.sources import read_runs
from probediff.report.verdicts.evidence import exact_spec
from probediff.report.verdicts.judging import STATEMENTS, GroupVerdicts, judge_all
from probediff.report.verdicts.rule import Verdict
from probediff.report.verdicts.tables import all_claims, claim_table, exact_table, to_plain, verdict_table
from tests.report.synthetic import write_run
from tests.report.verdict_runs import (
    KEYS,
    LARGE,
    OF_EXACT,
    SMALL,
    judged,
    lines_of,
    outcomes,
    verdicts_of,
    write_verdict_run,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def test_the_statements_have_names_of_their_own_and_places() -> None:
    assert len(set(KEYS)) == len(KEYS) == 28
    assert all(re.fullmatch(r"(P1|P2|C)-[A-Z0-9.]+[a-d]?", key) for key in KEYS)
    assert all(re.search(r"figure|table|section|equation", statement.place) for statement in STATEMENTS)
    assert all(statement.words.endswith(".") and len(statement.words) < 120 for statement in STATEMENTS)


@pytest.mark.parametrize(("holds", "verdict"), [(True, "agrees"), (False, "disagrees")])
def test_every_statement_can_agree_and_disagree(holds: bool, verdict: Verdict, tmp_path: Path) -> None:
    found = judged(write_verdict_run(tmp_path / "run", holds))
    assert verdicts_of(found.network.outcomes) == dict.fromkeys(KEYS, verdict)
    by_label = {verdicts.label: verdicts for verdicts in found.exact}
    assert verdicts_of(by_label["h = 0.4"].outcomes) == dict.fromkeys(OF_EXACT, verdict)
    # The Gaussian was asked for the similarity of its samples alone.
    assert verdicts_of(by_label["h = 1"].outcomes) == dict.fromkeys(OF_EXACT, "undecided")
    assert found.network.counts[verdict] == len(KEYS) and f"{len(KEYS)} {verdict[:5]}" in found.network.counts_in_words
    assert all(outcome.reason and not outcome.cures for outcome in found.network.outcomes)


@pytest.mark.parametrize("holds", [True, False])
def test_wide_errors_and_none_decide_nothing(holds: bool, tmp_path: Path) -> None:
    for name, error in (("wide", LARGE), ("none", None)):
        found = judged(write_verdict_run(tmp_path / name, holds, error))
        # Where images are what the error is over, it is computed from them, and there is none where they are alike.
        computed = {"P2-F7", "P2-F9", "P2-F10"} if error is None else set()
        wanted = {key: "undecided" for key in KEYS if key not in computed}
        assert {k: v for k, v in verdicts_of(found.network.outcomes).items() if k not in computed} == wanted
        words = "only partly" if error else "no standard error"
        undecided = [outcome for outcome in found.network.outcomes if outcome.statement.key in wanted]
        assert all(words in outcome.reason for outcome in undecided)


def test_without_data_everything_is_undecided_and_says_what_records_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", files=False, probes=("training",))
    (run / "records.jsonl").write_text("".join(line for line in lines_of(run) if "similarity" not in line))
    found = judged(run)
    assert verdicts_of(found.network.outcomes) == dict.fromkeys(KEYS, "undecided")
    for outcome in found.network.outcomes:
        assert re.search(r"`probediff [a-z-]+ ", outcome.reason), outcome.statement.key
    assert not found.exact


def commands_in(found: GroupVerdicts) -> set[str]:
    models = (found.network, *found.exact)
    reasons = [outcome.reason for verdicts in models for outcome in verdicts.outcomes]
    return {command for reason in reasons for command in re.findall(r"`probediff ([^`]+)`", reason)}


def test_the_cures_are_commands_with_options_that_exist(tmp_path: Path) -> None:
    run = write_verdict_run(tmp_path / "run", True, None)
    commands = commands_in(judged(run)) | commands_in(judged(write_run(tmp_path / "bare", files=False)))
    assert len(commands) > 15 and any("exact:RUN,h=0.4" in command for command in commands)
    # That of `fit` is made by Lightning's command line.
    for command in (command for command in commands if command.split()[0] != "fit"):
        verb, *words = command.split()
        parser = importlib.import_module(f"probediff.commands.{verb.replace('-', '_')}").build_parser()
        named = {word for word in words if word.startswith("--")}
        assert named <= set(parser._option_string_actions), command


@pytest.mark.parametrize("words", ["h=0.4", "h=0", "h=0.4,images=500", "denoiser=nearest", "denoiser=local,images=9"])
def test_an_exact_denoiser_is_called_as_its_folder_came_about(words: str) -> None:
    kind = ExactModel.parse(f"exact:RUN,{words}").name
    assert exact_spec(kind) == f"exact:RUN,{words}"
    assert exact_spec("gaussian") == "exact:RUN,h=1"


@pytest.mark.parametrize("name", ["cifar10_small", "cifar10_small_seeds"])
def test_published_results_have_numbers_and_no_errors(name: str) -> None:
    found = judged(RESULTS / name)
    assert set(verdicts_of(found.network.outcomes).values()) == {"undecided"}
    by_key = outcomes(found)
    number = by_key["P1-F2a"].claims[0].number
    folders = [RESULTS / name] if name == "cifar10_small" else sorted((RESULTS / name).glob("seed*"))
    last = [[r for line in lines_of(f) if (r := json.loads(line))["probe"] == "inversion_angles"][-1] for f in folders]
    values = [record["values"]["at_image_mean_deg"] for record in last]
    assert number is not None and number.value == pytest.approx(sum(values) / len(values))
    assert number.num_runs == len(folders) and number.error is None
    assert "0.462 ± 0.009 (CIFAR-10" in by_key["P1-T1"].published


def test_seeds_are_averaged_and_their_spread_counts(tmp_path: Path) -> None:
    """Three runs, of which one is far off: the mean is near the others, and its error is of the spread."""
    runs = [write_verdict_run(tmp_path / f"seed{k}", True, seed=k) for k in range(3)]
    text = (runs[2] / "records.jsonl").read_text()
    (runs[2] / "records.jsonl").write_text(text.replace('"at_latent_mean_deg": 120.0', '"at_latent_mean_deg": 60.0'))
    found = judged(*runs)
    (claim,) = outcomes(found)["P1-F2b"].claims
    assert claim.number is not None and claim.number.num_runs == 3
    assert claim.number.value == pytest.approx(100.0)
    # The variance of 120, 120 and 60 is 1200, a third of it 400.
    assert claim.number.error == pytest.approx((SMALL**2 + 400) ** 0.5)
    assert claim.verdict == "undecided"
    assert sum(verdict == "agrees" for verdict in verdicts_of(found.network.outcomes).values()) == len(KEYS) - 1


def test_groups_have_verdicts_of_their_own(tmp_path: Path) -> None:
    for name, holds in (("a", True), ("b", False)):
        run = write_verdict_run(tmp_path / name, holds)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("0.0001", "0.1") if holds else config)
    first, second = judge_all(group_runs(read_runs([tmp_path]), "model.learning_rate"))
    assert [first.group.label, second.group.label] == ["learning_rate=0.1", "learning_rate=0.0001"]
    assert first.network.counts["agrees"] == second.network.counts["disagrees"] == len(KEYS)


def test_tables_and_plain_types_hold_the_same_numbers(tmp_path: Path) -> None:
    found = judged(write_verdict_run(tmp_path / "run", True))
    table, claims, exact = verdict_table(1, found), claim_table(1, found), exact_table(1, found)
    assert [row[0] for row in table.rows] == KEYS and exact is not None
    assert [row[0] for row in exact.rows] == OF_EXACT
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["number"] == "0.46000 ± 0.00010" and row["null"] == "0.155" and row["verdict"] == "agrees"
    assert row["holds"] == "above 0.1628" and row["published"] == "0.462 ± 0.009 (CIFAR-10; ± not defined in P1)"
    plain = to_plain([found])
    json.dumps(plain, allow_nan=False)
    network, *_ = plain["groups"][0]["models"]
    assert network["counts"] == {"agrees": len(KEYS), "disagrees": 0, "undecided": 0}
    first = network["statements"][0]["claims"][0]
    wanted = {"value": 0.46, "standard_error": SMALL, "num_runs": 1, "null": 0.155, "verdict": "agrees", "cure": ""}
    assert {key: first[key] for key in wanted} == wanted
    assert first["interval"] == pytest.approx([0.46 - 2.09 * SMALL, 0.46 + 2.09 * SMALL])
    assert first["holds"]["above"] == pytest.approx(1.05 * 0.155) and first["holds"]["below"] is None
    num_claims = sum(len(outcome.claims) for outcome in found.network.outcomes)
    assert len(claims.rows) == num_claims
    every = sum(len(o.claims) for verdicts in (found.network, *found.exact) for o in verdicts.outcomes)
    assert len(all_claims([found]).rows) == every


def numbers_in(text: str) -> set[float]:
    return {abs(float(word)) for word in re.findall(r"\d+(?:\.\d+)?", text.replace("°", ""))}


def test_the_page_holds_every_statement_with_its_thresholds(tmp_path: Path) -> None:
    lines = (ROOT / "docs" / "verdicts.md").read_text().splitlines()
    rows = {m[1]: line for line in lines if (m := re.match(r"\| `([PC][12]?-[^`]+)` \|", line))}
    assert list(rows) == KEYS
    # Of these a threshold is the null, or made from it.
    relative = {"P1-T1", "P2-F7", "P2-F9", "P2-F10"}
    for key, outcome in outcomes(judged(write_verdict_run(tmp_path / "run", True))).items():
        cells = re.split(r"(?<!\\)\|", rows[key])
        named = numbers_in(cells[4])
        limits = (limit for claim in outcome.claims for limit in (claim.region.low, claim.region.high))
        wanted = {abs(limit) for limit in limits if limit is not None and key not in relative}
        assert wanted <= named | {0.0} if key == "P1-T1" else wanted <= named, key


def test_each_number_decides_its_own_statement_alone(tmp_path: Path) -> None:
    """Of a run in which all hold, the numbers of one probe taken from one in which none does."""
    true, false = (write_verdict_run(tmp_path / name, holds) for name, holds in (("true", True), ("false", False)))
    parts = {
        "pixel_correlation": {"P1-T1"},
        "latent_normality": {"P1-F1"},
        "trajectory_heatmap": {"P1-F3a", "P1-F3b"},
        "checkpoint_similarity_final": {"P1-F6a", "P1-F6b"},
    }
    wrong = {probe: [line for line in lines_of(false) if f'"{probe}"' in line] for probe in parts}
    for number, (probe, keys) in enumerate(parts.items()):
        run = tmp_path / f"mixed{number}"
        shutil.copytree(true, run)
        kept = [line for line in lines_of(run) if f'"{probe}"' not in line]
        (run / "records.jsonl").write_text("".join(itertools.chain(wrong[probe], kept)))
        found = verdicts_of(judged(run).network.outcomes)
        # Results of `vary` are of the run that they name.
        assert {key for key, verdict in found.items() if verdict == "disagrees"} == keys
