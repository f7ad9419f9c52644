"""The options that commands share: one spelling each, the earlier ones accepted, and what they parse to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from probediff.commands import edit, inversions, probe, search_noise, vary, whitening
from probediff.commands.options import CommandParser, WholeNumbers, pick
from probediff.models.source import ModelChoice, find_source

PARSERS: dict[str, tuple[Callable[[], CommandParser], list[str]]] = {
    "probe": (probe.build_parser, []),
    "inversions": (inversions.build_parser, ["MODEL"]),
    "whitening": (whitening.build_parser, ["MODEL"]),
    "search-noise": (search_noise.build_parser, ["IMAGE"]),
    "vary": (vary.build_parser, ["NOISES", "MODEL"]),
    "edit": (edit.build_parser, ["IMAGE", "--model", "MODEL"]),
}
WITH_STEPS = [name for name in PARSERS if name != "search-noise"]
#: Settings by the commands that had them under a name of their own, and those that had them as settings.
SETTINGS = {
    "num_samples": ["probe", "inversions", "whitening"],
    "noise_seed": ["probe", "inversions", "whitening", "vary", "edit"],
    "batch_size": ["probe", "inversions", "whitening", "vary", "edit"],
    "convention": ["probe", "inversions", "whitening", "vary", "edit"],
    "weights": list(PARSERS),
    "ema_rate": list(PARSERS),
    "clip": ["probe"],
    "clip_inversion": ["probe"],
}
VALUES = {"convention": "diffusers", "weights": "raw", "ema_rate": "0.5", "clip": "false", "clip_inversion": "false"}


def parse(command: str, *options: str) -> Any:
    build, arguments = PARSERS[command]
    return build().parse_args([*arguments, *options])


@pytest.mark.parametrize(("setting", "command"), [(name, c) for name, commands in SETTINGS.items() for c in commands])
def test_a_setting_has_one_spelling_and_the_bare_one_is_accepted(setting: str, command: str) -> None:
    value = VALUES.get(setting, "7")
    now = parse(command, f"--settings.{setting}", value)
    assert str(now.settings[setting]).lower() == value
    assert now != parse(command)
    assert parse(command, f"--{setting}", value) == parse(command, f"--{setting}={value}") == now
    assert f"--settings.{setting} " in PARSERS[command][0]().format_help()
    assert f"  --{setting} " not in PARSERS[command][0]().format_help()


@pytest.mark.parametrize("command", WITH_STEPS)
@pytest.mark.parametrize(
    ("typed", "numbers"), [("10", (10,)), ("10,100", (10, 100)), ("[10,100]", (10, 100)), ("[10, 20]", (10, 20))]
)
def test_numbers_of_steps_are_whole_numbers(command: str, typed: str, numbers: tuple[int, ...]) -> None:
    assert tuple(parse(command, "--num_steps", typed).num_steps) == numbers
    assert tuple(parse(command, f"--num_steps={typed}").num_steps) == numbers


@pytest.mark.parametrize(
    ("command", "option"), [*((name, "--num_steps") for name in WITH_STEPS), ("whitening", "--iterations")]
)
@pytest.mark.parametrize("typed", ["many", "1.5", "10;20", ""])
def test_what_is_no_whole_number_is_refused(
    command: str, option: str, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(command, option, typed)
    assert stopped.value.code == 2
    assert "expected whole numbers with commas between, such as 10,100,1000, got" in capsys.readouterr().err


def test_whole_numbers_go_through_a_configuration() -> None:
    for value in (8, "8", [8], (8,), "[8]"):
        assert WholeNumbers.read(value) == WholeNumbers([8])
    assert str(WholeNumbers([8, 9])) == "8,9"
    parser = PARSERS["probe"][0]()
    options = parser.parse_args(["--num_steps", "8,9"])
    assert "num_steps:\n- 8\n- 9\n" in parser.dump(options)
    parser.set_defaults(num_steps=WholeNumbers([8, 9]))
    assert parser.parse_args([]).num_steps == options.num_steps


@pytest.mark.parametrize("command", ["vary", "edit"])
def test_images_are_made_with_one_number_of_steps(command: str, tiny_run: Path) -> None:
    options = parse(command, "--num_steps", "10,20")
    with pytest.raises(ValueError, match="--num_steps must be one number here, got"):
        vary.load_sampler(options, str(tiny_run))


@pytest.mark.parametrize("command", PARSERS)
@pytest.mark.parametrize("folder", ["out", "settings.weights", "model"])
def test_a_folder_may_have_the_name_of_an_option(command: str, folder: str) -> None:
    assert parse(command, "--out", folder).out == folder


def test_a_misspelt_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("whitening", "--settings.nun_samples", "3")
    assert "did you mean --settings.num_samples?" in capsys.readouterr().err


def test_a_model_choice_is_all_that_names_a_model(tiny_run: Path) -> None:
    options = parse("inversions", "--checkpoints", "2", "--weights", "raw", "--image_size", "8", "--num_heads", "2")
    choice = pick(ModelChoice, options, model=str(tiny_run))
    assert choice == ModelChoice(str(tiny_run), "2", "raw", num_heads=2, image_size=8)
    choice = ModelChoice(str(tiny_run), "2", "raw")
    with pytest.raises(FrozenInstanceError):
        choice.model = "another"  # type: ignore[misc]
    source = find_source(choice)
    assert source.steps == [2]
    conventions = source.load(2).conventions
    assert (conventions["ema_rate"], conventions["weights"]) == (None, "raw")
    assert find_source(ModelChoice(str(tiny_run))).load(4).conventions["weights"] == "ema"
    for checkpoints, steps in (("all", [0, 2, 4]), ("last", [4]), ("[0, 2]", [0, 2])):
        assert find_source(ModelChoice(str(tiny_run), checkpoints)).steps == steps
    with pytest.raises(ValueError, match="must be all, last, or training steps with commas between"):
        find_source(ModelChoice(str(tiny_run), "newest"))


OF_A_STATE_DICT = {
    "schedule": "linear",
    "num_train_timesteps": 40,
    "num_heads": 2,
    "image_size": 8,
    "num_head_channels": 4,
}


@pytest.mark.parametrize("name", OF_A_STATE_DICT)
def test_a_run_says_itself_what_a_state_dict_does_not(name: str, tiny_run: Path) -> None:
    options = {name: OF_A_STATE_DICT[name]}
    for model in (tiny_run, tiny_run / "checkpoints" / "step=00000004.ckpt"):
        with pytest.raises(ValueError, match=rf"--{name} must be left out for {model}, a run, .*got {options[name]!r}"):
            find_source(ModelChoice(str(model), **options))
        assert find_source(ModelChoice(str(model), **options, among_others=True)).steps == [4]


@pytest.mark.parametrize(("name", "value"), [("weights", "ema"), ("ema_rate", 0.9), ("checkpoints", "0,2")])
def test_published_weights_are_as_published(name: str, value: Any, tmp_path: Path) -> None:
    choice = ModelChoice(str(tmp_path / "published.pt"), **{name: value})
    with pytest.raises(ValueError, match=rf"--{name} must be left out for .*as published, got {value!r}"):
        find_source(choice)


def test_other_options_without_effect(tiny_run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--ema_rate must be left out for .*whose raw weights are no average, got 0.9"
    ):
        find_source(ModelChoice(str(tiny_run), weights="raw", ema_rate=0.9))
    checkpoint = tiny_run / "checkpoints" / "step=00000004.ckpt"
    with pytest.raises(ValueError, match=r"--checkpoints must be left out for .*which is one checkpoint, got '2'"):
        find_source(ModelChoice(str(checkpoint), "2"))
    for command in PARSERS:
        assert "--image_size" in PARSERS[command][0]().format_help()
        assert "among_others" not in PARSERS[command][0]().format_help()
