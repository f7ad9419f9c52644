"""How commands end: exit statuses, and what is printed of errors and of Ctrl-C."""

from __future__ import annotations

import argparse

import pytest
import torch

from probediff.commands.runner import describe_error, run_command, run_guarded, split_help
from probediff.exceptions import FeatureLoadError, NonFiniteLossError, StoppedBySignalError, WorkerDiedError


def raising(error: BaseException) -> int:
    def work() -> None:
        raise error

    return run_guarded("probediff test", work, "stopped; start it again")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("argument"),
        FileNotFoundError("file"),
        ImportError("pip install"),
        FeatureLoadError("weights"),
        NonFiniteLossError("loss"),
        WorkerDiedError("memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_cure_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(error) == 1
    assert capsys.readouterr().err == f"probediff test: error: {error}\n"


def test_notes_follow_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("argument")
    error.add_note("The traceback is in error.txt")
    assert raising(error) == 1
    assert capsys.readouterr().err == "probediff test: error: argument\nThe traceback is in error.txt\n"


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("bug"), StoppedBySignalError("bug")])
def test_faults_of_the_program_are_raised(error: Exception) -> None:
    assert describe_error(error) is None
    with pytest.raises(type(error), match="bug"):
        raising(error)


def test_a_full_device_is_told_with_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nand more")) == 1
    message = capsys.readouterr().err
    assert "the device ran out of memory; lower --data.batch_size" in message
    assert "(CUDA out of memory. Tried 2 GiB)" in message


def test_the_innermost_reason_of_the_parser_is_told() -> None:
    error = ValueError("Does not validate against any of the Union subtypes")
    error.__cause__ = ValueError("ema_rates must be different")
    assert describe_error(error) == "ema_rates must be different"


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\nprobediff test: stopped; start it again\n"


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (75, 75)])
def test_the_status_is_what_the_work_returns(returned: int | None, status: int) -> None:
    assert run_command(argparse.ArgumentParser("test"), [], lambda options: returned) == status


def test_help_is_the_docstring_of_a_module() -> None:
    assert split_help("What it does.\n\nMore.\n\nExamples:\n  probediff x\n") == (
        "What it does.\n\nMore.",
        "Examples:\n  probediff x",
    )
    assert split_help("What it does.") == ("What it does.", "")
    assert split_help(None) == ("", "")
