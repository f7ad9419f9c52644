"""Values that no training can have: one line with the cure, before anything is written; spellings that were meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probediff.__main__ import main
from probediff.commands import options
from probediff.commands.fit import FitCLI
from probediff.commands.parse_errors import explain
from probediff.commands.runner import describe_error
from probediff.files import capacity
from tests.conftest import ROOT, TINY_RUN

DIGITS = ["fit", "--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN]
HUGE = 10**12
MEMORY = "must fit into the .* GiB memory of this machine"
ENDLESS = "must be work for less than a year"
REFUSED = {
    "--trainer.accumulate_grad_batches=0": "--trainer.accumulate_grad_batches must be at least 1, got 0",
    f"--trainer.accumulate_grad_batches={HUGE}": ENDLESS,
    f"--trainer.max_steps={HUGE}": ENDLESS,
    "--trainer.max_steps=-1": "--trainer.max_steps must be set, got -1",
    "--trainer.devices=0": "--trainer.devices must be at least 1, got 0",
    "--trainer.devices=-1": "--trainer.devices must be at least 1, got -1",
    "--trainer.devices=all": "--trainer.devices must be a whole number or auto on a CPU, got 'all'",
    f"--trainer.devices={HUGE}": f"--trainer.devices {MEMORY}",
    "--trainer.accelerator=tpu": "--trainer.accelerator must be one that this machine has, got 'tpu'; leave it out",
    "--trainer.accelerator=xyz": "--trainer.accelerator must be one of auto, cpu, cuda, gpu, mps, tpu, got 'xyz'",
    "--trainer.strategy=nonsense": r"--trainer\.\* must go together, got strategy='nonsense': .*change or leave out",
    "--trainer.barebones=true": r"--trainer\.\* must go together, got log_every_n_steps=50, barebones=True",
    "--trainer.num_nodes=0": "--trainer.num_nodes must be at least 1, got 0",
    "--trainer.gradient_clip_val=-1": "--trainer.gradient_clip_val must be at least 0, got -1",
    "--trainer.gradient_clip_val=.nan": "--trainer.gradient_clip_val must be at least 0, got nan",
    "--trainer.limit_train_batches=0": "--trainer.limit_train_batches must be above 0, got 0",
    "--trainer.log_every_n_steps=-1": "--trainer.log_every_n_steps must be at least 0, got -1",
    "--seed_everything=-1": "--seed_everything must be in",
    "--model.num_train_timesteps=1000000000": "num_train_timesteps must be at most 16,777,216, .* got 1000000000",
    "--model.learning_rate=.inf": "learning_rate must be finite, got inf",
    "--model.weight_decay=.nan": "weight_decay must be 0 or more and finite, got nan",
    "--network.channels=1000000": f"the network {MEMORY}, got channels 1000000",
    "--trainer.num_nodes=2": "num_nodes must be 1 unless other nodes are told of this one, got 2",
    "--network.num_res_blocks=1000000000": "num_res_blocks must be at most 100, got 1000000000",
    f"--data.batch_size={HUGE}": f"data.batch_size {MEMORY}",
    "--data.num_workers=1000000": f"num_workers {MEMORY}",
    f"--probing.settings.num_samples={HUGE}": f"probing.settings.num_samples {MEMORY}",
    f"--probing.settings.noise_seed={2**64}": "noise_seed must be at most 2..64-1, got",
    f"--probing.schedule.per_decade={HUGE}": "probing.schedule.per_decade must lead to at most 1,000,000 checkpoints",
    "--probing.schedule.per_decade=0": "probing.schedule.per_decade must be at least 1, got 0",
    "--probing.schedule.steps=[-1]": "probing.schedule.steps must be at least 0",
    "--inversion_angles.num_shown=-1": "inversion_angles.num_shown must be at least 1, got -1",
    "--checkpoint_similarity.num_directions=0": "checkpoint_similarity.num_directions must be at least 1, got 0",
    "--assignment_accuracy.num_hubs=0": "assignment_accuracy.num_hubs must be at least 1, got 0",
    f"--trajectory_heatmap.num_lambdas={HUGE}": f"trajectory_heatmap.num_lambdas {MEMORY}",
    "--network.channels=${no.key}": r"a value \$\{...\} must name a key or variable that there is: .*no.key",
    "--network.channels=${": r"a value \$\{...\} must name a key",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_fit_refuses_in_one_line_before_anything_is_written(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DIGITS, argument, "--run_dir", str(tmp_path / "run")]) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("probediff fit: error: "))
    assert re.search(REFUSED[argument], line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--network.channel_mult", "1,2"], "--network.channel_mult must be a list, got '1,2'; write '[1,2]'"),
        (["--network.channel_mult", "1 2"], "--network.channel_mult must be a list, got '1 2'; write '[1,2]'"),
        (["--network.channel_mult", "(1, 2)"], "--network.channel_mult must be a list, got '(1, 2)'; write '[1,2]'"),
        (["--model.ema_rates", "0.9"], "--model.ema_rates must be a list, got '0.9'; write '[0.9]'"),
        (["--wandb.tags", "a"], "--wandb.tags must be a list or null, got 'a'; write '[a]'"),
        (["--wandb.tags", "a,b"], "--wandb.tags must be a list or null, got 'a,b'; write '[a,b]'"),
        (["--network.channels", "x"], "--network.channels must be a whole number, got 'x'"),
        (["--data.batch_size", "x"], "--data.batch_size must be a whole number, got 'x'"),
        (["--data.foo", "1"], "--data.foo must be an option of probediff.data.Digits, which has none of that name"),
        (
            ["--data", "Nothing"],
            "--data must be a class, got 'Nothing'; such as Digits, CIFAR10 or ImageFolder",
        ),
        (
            ["--data", "os.system"],
            "--data must be a class, got 'os.system'; such as Digits, CIFAR10 or ImageFolder",
        ),
        (["--config", "configs/nope.yaml"], "/configs/nope.yaml'"),
        (["--model.loss", "l2"], "--model.loss must be one of hybrid, simple, got 'l2'"),
        (["--network.chanels", "8"], "--network.chanels 8 (did you mean --network.channels?)"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*DIGITS, *arguments])
    assert stopped.value.code == 2
    usage, tip, error = capsys.readouterr().err.splitlines()
    assert error.endswith(line) and usage.startswith("usage: ") and tip.startswith("tip: ")


def test_what_the_parser_says_otherwise_is_one_line_too() -> None:
    assert explain('Parser key "network":\nUnable to load config "3"', []) == '--network: Unable to load config "3"'


def test_fit_alone_names_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(["fit"])
    assert "a configuration must be given, got none; start with --config configs/digits.yaml" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "__file__", str(tmp_path / "site" / "probediff" / "commands" / "options.py"))
    with pytest.raises(SystemExit):
        main(["fit"])
    error = capsys.readouterr().err
    assert "configuration must be given, got none; give --data Digits" in error
    without = re.findall(r"'[^']*'|\S+", error.partition("give ")[2].partition(", seconds")[0])
    FitCLI([*(part.strip("'") for part in without), *TINY_RUN, "--run_dir", str(tmp_path / "run")])


@pytest.mark.parametrize(
    "arguments",
    [["runs", ""], ["report", "runs", "--out", ""], ["fit", "--run_dir="], ["probe", "runs", "--images", ""]],
)
def test_an_unset_variable_of_a_script_is_not_the_working_directory(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert re.search(r"error: (--\w+|an argument) must not be empty, got ''", capsys.readouterr().err)


def test_memory_that_is_not_there_is_told() -> None:
    assert "(allocate 8 bytes" in str(
        describe_error(
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        )
    )
    assert "must fit into this machine's memory" in str(describe_error(MemoryError()))
    assert describe_error(RuntimeError("a fault of the program")) is None


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")
    monkeypatch.setattr(capacity, "_CONTAINER_LIMITS", (str(tmp_path / "missing"), str(tmp_path / "memory.max")))
    assert capacity.memory_bytes() == 2**20
    with pytest.raises(ValueError, match=r"x must fit into the 0.0 GiB memory of this machine, got 5, .*; lower it"):
        capacity.check_memory("x", 5, 2**20 + 1, "lower it")
    capacity.check_memory("x", 5, 2**20, "lower it")
