"""The command: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from probediff.__main__ import main
from probediff.commands.verdicts import verdicts
from probediff.report.verdicts.judging import STATEMENTS
from tests.report.synthetic import write_run
from tests.report.verdict_runs import KEYS, OF_EXACT, lines_of, write_verdict_run

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize(("holds", "verdict", "counts"), [(True, "agrees", (28, 0)), (False, "disagrees", (0, 28))])
def test_it_prints_every_statement_with_number_null_rule_and_verdict(
    holds: bool, verdict: str, counts: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_verdict_run(tmp_path / "run", holds)
    assert main(["verdicts", str(run)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines if re.match(r"(P\d|C)-\S+ +[a-z]+ +[A-Z]", line)] == [
        [key, verdict] for key in KEYS
    ]
    words = " ".join(text.split())
    assert all(statement.words in words and f"({statement.place})" in words for statement in STATEMENTS)
    number = "0.46000 ± 0.00010" if holds else "0.15700 ± 0.00010"
    assert f"mean of the ten largest |r| of latents: {number}, null 0.155; holds above 0.1628" in words
    assert "published: 0.462 ± 0.009 (CIFAR-10; ± not defined in P1)" in words
    # The exact denoisers, compactly, and a line of counts of each at the end.
    (header,) = (k for k, line in enumerate(lines) if line.split() == ["h", "=", "0.4", "h", "=", "1"])
    assert [line.split()[0] for line in lines[header + 2 : header + 2 + len(OF_EXACT)]] == OF_EXACT
    assert all(line.split()[1] == f"{verdict}:" for line in lines[header + 2 : header + 2 + len(OF_EXACT)])
    assert lines[-3] == f"network: 28 statements: {counts[0]} agree, {counts[1]} disagree, 0 undecided"
    assert lines[-1] == "h = 1: 20 statements: 0 agree, 0 disagree, 20 undecided"
    assert max(map(len, lines)) <= 160 and not any(line.endswith(" ") for line in lines)


def test_it_writes_tables_and_plain_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write_verdict_run(tmp_path / "runs" / f"seed{seed}", True, seed=seed)
    out = tmp_path / "new" / "out"
    assert verdicts([str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert f"verdicts.md, .csv and .json lie in {out}" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["verdicts.csv", "verdicts.json", "verdicts.md"]
    with (out / "verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = (row for row in rows if row["id"] == "P1-F2b" and row["model"] == "network")
    wanted = {"runs": "2 runs", "value": "120.0", "runs with it": "2", "low": "90.0", "high": "", "verdict": "agrees"}
    assert {key: row[key] for key in wanted} == wanted and float(row["standard error"]) == pytest.approx(1e-4)
    plain = json.loads((out / "verdicts.json").read_text())
    (group,) = plain["groups"]
    assert group["runs"] == ["seed0", "seed1"] and plain["rule"]["quantile"] == 2.09
    assert [statement["id"] for statement in group["models"][0]["statements"]] == KEYS
    assert {model["model"] for model in group["models"]} == {"network", "h = 0.4", "h = 1"}
    text = (out / "verdicts.md").read_text()
    assert text.startswith("# Verdicts") and "| P1-T1 | table 1, section 4.2 |" in text
    # Again, over what is there.
    assert verdicts([str(tmp_path / "runs"), "--out", str(out)]) == 0


def test_groups_are_those_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write_verdict_run(tmp_path / f"seed{seed}", bool(seed), seed=seed)
    assert verdicts([str(tmp_path), "--group_by", "seed_everything"]) == 0
    text = capsys.readouterr().out
    assert "seed_everything=0: seed0" in text and "seed_everything=1: seed1" in text
    assert "28 statements: 28 agree" in text and "0 agree, 28 disagree" in text


@pytest.mark.parametrize("name", ["cifar10_small", "cifar10_small_seeds"])
def test_published_results_are_undecided_with_what_would_decide(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdicts([str(RESULTS / name)]) == 0
    text = capsys.readouterr().out
    assert "network: 28 statements: 0 agree, 0 disagree, 28 undecided" in text
    assert "no standard error is recorded with it" in " ".join(text.split())


def test_errors_are_one_line_with_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdicts([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("probediff verdicts: error: RUN must be a folder of a run, got")
    run = write_run(tmp_path / "run", files=False, probes=("training",))
    assert verdicts([str(run), "--group_by", "no.such"]) == 1
    assert "--group_by must be a dotted key" in capsys.readouterr().err
    assert verdicts([str(run), "--out", str(run / "records.jsonl")]) == 1
    assert "--out must be a folder that can be written to" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        verdicts([])
    assert "usage: probediff verdicts" in capsys.readouterr().err


def test_what_is_damaged_is_warned_of_and_undecided(tmp_path: Path) -> None:
    run = write_verdict_run(tmp_path / "run", True)
    (run / "probes/whitening/whitening.json").write_text("{")
    with pytest.warns(UserWarning, match=r"whitening.json is left out, for it cannot be read"):
        assert verdicts([str(run), "--out", str(tmp_path / "out")]) == 0
    network = json.loads((tmp_path / "out/verdicts.json").read_text())["groups"][0]["models"][0]
    undecided = [s["id"] for s in network["statements"] if s["verdict"] == "undecided"]
    assert undecided == ["P2-F2a", "P2-F2b", "P2-F5a", "P2-F5b", "P2-F5c", "P2-F5d", "P2-T"]
    reason = next(s["reason"] for s in network["statements"] if s["id"] == "P2-T")
    assert reason.startswith("run/probes/whitening/whitening.json cannot be read; `probediff whitening RUN`")
    (run / "records.jsonl").write_text("".join(lines_of(run)[:3]) + "{}\n")
    assert verdicts([str(run)]) == 1


def test_a_run_that_has_not_begun_is_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "sweep" / "a", files=False, probes=("training",))
    (run / "records.jsonl").write_text("")
    assert verdicts([str(run)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "28 statements: 0 agree, 0 disagree, 28 undecided" in text
    assert "the training has not ended: a has no records yet (so far: undecided)" in text
    # Among others it is left out.
    write_verdict_run(tmp_path / "sweep" / "b", True)
    assert verdicts([str(tmp_path / "sweep")]) == 0
    text = capsys.readouterr().out
    assert "b: b" in text and "28 agree" in text and "no records" not in text


def test_a_name_cannot_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_verdict_run(tmp_path / "a\x1b[2Jb", True, finished=False)
    assert verdicts([str(run)]) == 0
    assert "\x1b" not in capsys.readouterr().out
