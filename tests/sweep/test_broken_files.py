"""Sweep files that W&B's server would refuse, or misread, are one line here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probediff.commands.sweep import sweep
from probediff.sweep.expand import MOST_TRIALS, count_trials, expand
from probediff.sweep.file import SweepFile, read_sweep
from probediff.sweep.lineage import trial_name
from probediff.sweep.parameters import DISTRIBUTIONS, check_parameter

GOOD: dict[str, Any] = {"method": "random", "command": ["x", "${args}"], "parameters": {"a": {"values": [1, 2]}}}
METRIC = {"name": "train/loss", "goal": "minimize"}


def entry(**content: Any) -> dict[str, Any]:
    return {"parameters": {"a": content}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (entry(min=3, max=1), "min must be at most max, got 3 and 1; exchange them"),
        (entry(min=0.5, max=0.5), "min must be below max, got 0.5 twice; write value: 0.5"),
        (entry(min="1e-5", max=1), "a.min must be a number, got '1e-5'; write 1.0e-5"),
        (entry(min=1), "uniform needs max, got"),
        (entry(values=[]), "a.values must be a list with at least one value"),
        (entry(values={"b": 1}), "a.values must be a list with at least one value"),
        (entry(values=[{"b": None}]), "must not be null.*; write the text 'null'"),
        (entry(value=float("nan")), "a.value must be finite, got nan"),
        (entry(vaules=[1]), "a must hold value, values, min and max, or a distribution"),
        (entry(value=1, values=[1]), "constant must have only value, got 'values'"),
        (entry(distribution="unifrom", min=0, max=1), "must be one of constant, .*; did you mean uniform?"),
        (entry(distribution=["uniform"], min=0, max=1), "distribution must be one of"),
        (entry(distribution="q_uniform", min=0, max=1, q=0), "a.q must be a positive number, got 0"),
        (entry(distribution="int_uniform", min=0, max=1.5), "must be whole, got 0 and 1.5"),
        (entry(distribution="log_uniform_values", min=-1, max=1), "min of log_uniform_values must be positive, got -1"),
        (entry(distribution="log_uniform", min=1, max=1000), "exponents of e, got 1000; .* log_uniform_values"),
        (entry(distribution="normal", mu=0, sigma=-1), "a.sigma must be a positive number"),
        (entry(values=[1, 2], probabilities=[0.5]), "must be a list of 2, one for each value"),
        (entry(values=[1, 2], probabilities=[0.5, 0.4]), "sum to 1, got .*, whose sum is 0.9"),
        (entry(values=[1, 2], probabilities=[1.5, -0.5]), "must be at least 0 and sum to 1"),
        ({"parameters": {1: {"value": 1}}}, "must be dotted keys of the configuration, got 1"),
        ({"parameters": {"-a b": {"value": 1}}}, "must be dotted keys of the configuration, got '-a b'"),
        ({"parameters": {"a": {"parameters": None}}}, "write dotted keys, such as a.KEY"),
        ({"method": "bayes"}, "bayes needs a metric, such as"),
        ({"method": "bayes", "metric": "loss"}, "metric must have a name, .*got 'loss'"),
        ({"metric": METRIC | {"goal": "min"}}, "minimize or maximize"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "early_terminate needs a metric"),
        ({"metric": METRIC, "early_terminate": {"type": "hyperband"}}, "hyperband needs min_iter"),
        ({"metric": METRIC, "early_terminate": {"type": "hyperband", "min_iter": 0}}, "min_iter must be at least 1"),
        ({"metric": METRIC, "early_terminate": "hyperband"}, "such as {type: hyperband, min_iter: 3}"),
        ({"command": ["x"]}, "command must hold ..args., without which no trial gets its values"),
        ({"command": ["x", {"a": 1}, "${args}"]}, "command must be a list of words, got {'a': 1}"),
        ({"command": ["x", "${args}", "--a=3"]}, "must not fix a, which is swept"),
        ({"run_cap": -1}, "run_cap must be at least 1, got -1"),
        ({"run_cap": True}, "run_cap must be at least 1, got True"),
        ({"run_caps": 3}, "run_caps must be a key that W&B knows; did you mean run_cap?"),
        ({"program": 3}, "program must be a path, got 3"),
    ],
)
def test_what_is_wrong_is_one_line_with_or_without_local(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    for options in ([], ["--local", "--folder", str(tmp_path / "out")]):
        if options and "early_terminate" in changes:
            continue
        assert sweep([str(path), *options]) == 1
        error = capsys.readouterr().err
        assert re.fullmatch(f"probediff sweep: error: {re.escape(str(path))}: .*{message}.*\n", error), error
    assert not (tmp_path / "out").exists()


#: Ten lines that stand for 10^10 values.
BOMB = "a0: &a0 [1]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]\n" for k in range(10))


@pytest.mark.parametrize(
    "text", ["", "3", "a: [", "\0", "a: &a [*a]", "a: 1\na: 2", "? [b]\n: 2", "!!python/name:os.system", BOMB, "\xff"]
)
def test_what_is_no_sweep_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert sweep([str(path)]) == 1
    assert re.fullmatch(r"probediff sweep: error: .* must be a sweep file.*\n", capsys.readouterr().err)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, tmp_path / "none.yaml", Path("/dev/zero")):
        assert sweep([str(path)]) == 1
        assert f"FILE must be a sweep file in YAML, got {path}, which is no" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"method": "grid"}))
    assert sweep([str(path), "--local", "--folder", str(path)]) == 1
    assert f"--folder must be a folder that can be written to, got {path}" in capsys.readouterr().err


numbers = st.one_of(
    st.integers(-3, 3), st.floats(-3, 3, allow_subnormal=False), st.sampled_from(["1", None, True, float("inf"), []])
)
entries = st.fixed_dictionaries(
    {},
    optional={key: numbers for key in ("min", "max", "q", "mu", "sigma", "a", "b", "value", "unknown")}
    | {key: st.one_of(st.lists(numbers, max_size=3), numbers) for key in ("values", "probabilities")}
    | {"distribution": st.one_of(st.sampled_from([*DISTRIBUTIONS, "uniforms"]), numbers)},
)


@given(st.one_of(entries, numbers))
def test_any_entry_is_understood_or_refused_in_words(content: Any) -> None:
    try:
        check_parameter("parameters.a", content)
    except ValueError as error:
        assert str(error).startswith("parameters.a") and re.search("must|needs", str(error))
    else:
        sweep_file = SweepFile("s", "grid", ("x", "${args}"), {"a": content})
        try:
            assert len(expand(sweep_file)) == count_trials(sweep_file)
        except ValueError as error:
            assert "in a grid" in str(error)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(1, 100))
def test_trials_are_the_product_in_wandbs_order(sizes: list[int], cap: int) -> None:
    import itertools

    keys = [f"k{index}" for index in range(len(sizes))]
    parameters = {key: {"min": 0, "max": size - 1} for key, size in zip(keys, sizes, strict=True)}
    product = [dict(zip(keys, v, strict=True)) for v in itertools.product(*map(range, sizes))]
    assert expand(SweepFile("s", "grid", ("x",), parameters, cap)) == product[:cap]


def test_a_capped_part_of_an_endless_grid_is_walked() -> None:
    parameters = {"a": {"min": 0, "max": 10**30}, "b": {"min": 0, "max": 1}}
    assert expand(SweepFile("s", "grid", ("x",), parameters, 3)) == [
        {"a": 0, "b": 0},
        {"a": 0, "b": 1},
        {"a": 1, "b": 0},
    ]
    with pytest.raises(ValueError, match=f"at most {MOST_TRIALS} trials"):
        expand(SweepFile("s", "grid", ("x",), parameters))


@given(st.dictionaries(st.text(max_size=50), st.text(max_size=120), min_size=1, max_size=3))
def test_every_trial_has_a_name_that_file_systems_take(values: dict[str, str]) -> None:
    name = trial_name(values)
    assert 0 < len(name.encode()) <= 200 and "/" not in name and name not in (".", "..")


def test_sweeps_of_this_repository_are_read() -> None:
    for path in (Path(__file__).parents[2] / "sweeps").glob("*.yaml"):
        assert count_trials(read_sweep(path, runs_here=True)) == len(expand(read_sweep(path)))


def test_a_key_that_the_configuration_does_not_have_ends_the_sweep_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``probediff fit`` says it; a value that is refused takes no other trial with it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    path, out = tmp_path / "s.yaml", tmp_path / "out"
    command = ["${env}", "python", "-m", "tests.sweep.fake_trial", "${args}"]
    for refused in ("key", "value"):
        parameters = {"refuse": {"value": refused}, "a": {"values": [1, 2]}}
        path.write_text(yaml.safe_dump({"method": "grid", "command": command, "parameters": parameters}))
        assert sweep([str(path), "--local", "--folder", str(out / refused)]) == 1
        printed = capsys.readouterr().out
        if refused == "key":
            assert "failed: exit status 2: error: unrecognized arguments: --refuse=key (did you mean a?)" in printed
            assert "no other trial is started, for all have the same keys" in printed
            assert re.search(r"a=2,refuse=key +waiting", printed)
        else:
            assert printed.count('failed: exit status 2: error: Parser key "refuse": Expected an int') == 2
