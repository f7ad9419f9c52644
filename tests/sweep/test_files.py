"""Every key that a sweep file sweeps reaches the object it names; trials are those of W&B."""

from __future__ import annotations

import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from probediff.commands.fit import FitCLI
from probediff.commands.sweep import sweep
from probediff.runs.folder import RunFolder
from probediff.sweep.expand import expand, trial_command
from probediff.sweep.file import SweepFile, read_sweep

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
#: Where the value of a key arrives: the object itself, not the configuration.
ARRIVES: dict[str, Callable[[FitCLI], Any]] = {
    "seed_everything": lambda cli: cli.model.seed,
    "model.schedule": lambda cli: cli.model.schedule_name,
    "model.num_train_timesteps": lambda cli: len(cli.model.schedule),
    "network.channels": lambda cli: cli.model.eps_model.unet.channels,
    "data.init_args.num_images": lambda cli: cli.datamodule.num_images,
    "pixel_correlation.k": lambda cli: next(
        c.k for c in cli.trainer.callbacks if type(c).__name__ == "PixelCorrelation"
    ),
}


def agent() -> Any:
    """Functions of ``wandb agent``; every process of the tests would wait two seconds for them to collect this file."""
    return importlib.import_module("wandb.sdk.launch.sweeps.utils")


def agents_command(command: list[Any], values: dict[str, Any]) -> list[str]:
    """The command line by the functions that ``wandb agent`` calls."""
    args = agent().create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})["args"]
    replaced = {"${env}": ["/usr/bin/env"], "${args}": args}
    return [part for word in agent().create_sweep_command(list(command)) for part in replaced.get(word, [word])]


def one_at_a_time(path: Path) -> list[dict[str, Any]]:
    """Trials in which every value of every key appears."""
    trials = expand(read_sweep(path))
    seen: set[tuple[str, str]] = set()
    chosen = []
    for values in trials:
        new = {(key, str(value)) for key, value in values.items()} - seen
        if new:
            chosen.append(values)
            seen |= new
    return chosen


def recorded(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


CASES = [(path, values) for path in FILES for values in one_at_a_time(path)]


@pytest.mark.parametrize(("path", "values"), CASES, ids=[f"{p.stem}-{n}" for n, (p, _) in enumerate(CASES)])
def test_every_value_reaches_the_configuration_and_the_object(
    path: Path, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = agents_command(yaml.safe_load(path.read_text())["command"], values)
    assert command[:5] == ["/usr/bin/env", "python", "-m", "probediff", "fit"]
    monkeypatch.chdir(ROOT)
    devices = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--wandb.mode=disabled"]
    cli = FitCLI([*command[5:], *devices, f"--run_dir={tmp_path}"])
    config = yaml.safe_load(cli.start.config_text)
    for key, value in values.items():
        assert recorded(config, key) == value
        assert ARRIVES[key](cli) == value
    assert config["probing"]["settings"]["noise_seed"] == 420
    assert RunFolder(tmp_path).records() == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_it_answers_and_its_command_can_go_on(path: Path) -> None:
    header = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    assert "?" in " ".join(header)
    assert "trials of" in " ".join(header).lower()
    command = read_sweep(path).command
    assert command[:2] == ("${env}", "python")
    assert command[-3:] == ("--resume", "auto", "${args}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_our_command_line_is_the_agents(path: Path) -> None:
    description = read_sweep(path)
    for values in expand(description):
        assert trial_command(description, values) == agents_command(list(description.command), values)


@pytest.mark.parametrize("macro", ["args", "args_no_equals", "args_json", "program", "interpreter"])
def test_macros_are_the_agents(macro: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data")
    values = {"a.b": 1e-4, "c": True, "d": "x y", "e": [1, 2]}
    ours = SweepFile("test", "grid", ("${envvar:SOMEWHERE}/z${envvar:MISSING}", "${" + macro + "}"), {}, None, "p.py")
    theirs = agent().create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    theirs |= {"program": ["p.py"], "interpreter": ["python"]}
    assert trial_command(ours, values) == [*agent().create_sweep_command(list(ours.command))[:1], *theirs[macro]]


def test_p1_seeds() -> None:
    assert [values["seed_everything"] for values in expand(read_sweep(ROOT / "sweeps" / "seeds.yaml"))] == [0, 10, 42]


def description(parameters: dict[str, Any], run_cap: int | None = None) -> SweepFile:
    return SweepFile("test", "grid", ("x",), parameters, run_cap)


def test_a_grid_in_wandbs_order() -> None:
    """Recorded from grid_search_next_runs of W&B's package sweeps 0.3.0."""
    parameters = {"b": {"values": ["x", "y"]}, "a": {"min": 1, "max": 2}, "c": {"value": 0.5}}
    assert expand(description(parameters)) == [
        {"a": 1, "b": "x", "c": 0.5},
        {"a": 1, "b": "y", "c": 0.5},
        {"a": 2, "b": "x", "c": 0.5},
        {"a": 2, "b": "y", "c": 0.5},
    ]
    assert len(expand(description(parameters, run_cap=3))) == 3
    assert expand(description({"a": {"distribution": "int_uniform", "min": 1, "max": 2}})) == [{"a": 1}, {"a": 2}]


METRIC = "metric: {name: train/loss, goal: minimize}\n"
HYPERBAND = "early_terminate: {type: hyperband, min_iter: 3}\n"
GOOD = "method: grid\ncommand: [x, '${args}']\nparameters: {a: {values: [1]}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("grid", "bayes") + METRIC, "method must be grid to run here, got 'bayes'; .* without --local"),
        (GOOD.replace("grid", "random"), "method must be grid to run here, got 'random'; .* without --local"),
        (GOOD.replace("grid", "best"), "method must be one of grid, random, bayes, got 'best'"),
        (GOOD + "run_cap: 0\n", "run_cap must be at least 1, got 0"),
        (GOOD + "early_terminate: {type: hyperband}\n", "early_terminate needs W&B"),
        (GOOD.replace("{values: [1]}", "{parameters: {b: {value: 1}}}"), "write dotted keys, such as a.b"),
        (GOOD.replace("{values: [1]}", "3"), "parameters.a must hold value, values or a distribution, got 3"),
        (GOOD.replace("{values: [1]}", "{min: 0.0, max: 1.0}"), "parameters.a must have value, values, or whole min"),
        (GOOD.replace("{a: {values: [1]}}", "{}"), "must name at least one key"),
        (GOOD.replace("[x, '${args}']", "x"), "command must be a list such as"),
        (GOOD.replace("${args}", "${args_no_hyphens}"), r"\$\{args_no_hyphens\} must be one of .*; use \$\{args\}"),
        (
            GOOD.replace("values: [1]", "min: 1, max: 200000000"),
            "at most 10000 trials to run here, got 200000000; .*run_cap",
        ),
        (GOOD.replace("values: [1]", "min: 0, max: 1" + 40 * "0"), "at most 10000 trials to run here"),
        ("[1, 2]", "must be a sweep file with method, command and parameters, got list"),
        ("{", "must be a sweep file in YAML"),
    ],
)
def test_a_file_that_cannot_run_here_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    assert sweep([str(path), "--local", "--folder", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert re.search(f"probediff sweep: error: .*{message}", error), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        (GOOD, "has 1 trial. Through"),
        (GOOD.replace("[1]", "[1, 2]"), "has 2 trials. Through"),
        (GOOD.replace("grid", "random") + "run_cap: 20\n", "has 20 trials. Through"),
        (GOOD.replace("grid", "bayes") + METRIC, "has no fixed number of trials. Through"),
        (GOOD.replace("grid", "bayes") + METRIC + HYPERBAND, "has no fixed number of trials. Through"),
        (GOOD.replace("grid", "random") + METRIC + HYPERBAND + "run_cap: 1\n", "has 1 trial. Through"),
        (GOOD + METRIC + HYPERBAND + "controller: {type: local}\n", "has 1 trial. Through"),
        (GOOD.replace("values: [1]", "min: 1, max: 200000000"), "has 200000000 trials. Through"),
        (GOOD.replace("values: [1]", "min: 1, max: 200000000") + "run_cap: 20\n", "has 20 trials. Through"),
        (GOOD.replace("values: [1]", "distribution: q_uniform, min: 0, max: 4, q: 2"), "has no fixed number of"),
    ],
)
def test_without_local_the_two_commands_are_printed(
    text: str, beginning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    path = tmp_path / "of $HOME.yaml"
    path.write_text(text)
    assert sweep([str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path} {beginning}")
    assert f"wandb sweep --project probediff '{path}'" in printed
    assert "wandb agent --forward-signals --term-timeout" in printed
    assert (f"probediff sweep '{path}' --local" in printed) == ("grid" in text)


def test_the_project_is_that_of_the_file_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    path = tmp_path / "a.yaml"
    for text, project in ((GOOD, "ours"), (GOOD + "project: of files\n", "'of files'")):
        path.write_text(text)
        assert sweep([str(path)]) == 0
        assert f"wandb sweep --project {project} {path}\n" in capsys.readouterr().out
    path.write_text(GOOD + "project: 5\n")
    assert sweep([str(path)]) == 1
    assert "project must be a name, got 5; put it in quotes" in capsys.readouterr().err


def test_help_and_reading_need_nothing_heavy() -> None:
    code = (
        "import sys; from probediff.commands.sweep import sweep; import probediff.sweep.lineage; "
        f"sweep([{str(FILES[0])!r}]); sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
