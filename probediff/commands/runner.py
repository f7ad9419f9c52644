"""Errors that the user can cure, in one line; the rest are faults of the program."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from probediff.commands.cpu import set_up_cpu
from probediff.exceptions import FeatureLoadError, NonFiniteLossError

_EXPECTED_ERRORS = (ValueError, OSError, ImportError, FeatureLoadError, NonFiniteLossError)


def words_for(error: BaseException, run_dir: Path | None) -> str | None:
    """One line for an error that the user can cure; None for what is a fault of the program."""
    if isinstance(error, torch.OutOfMemoryError):
        cure = "lower --data.batch_size (training) or --probing.settings.batch_size (probes), then --resume auto"
        return f"the device ran out of memory; {cure} ({str(error).splitlines()[0]})"
    if _is_dead_data_worker(error):
        cure = f"try --data.num_workers 0 or free some memory, and go on with --run_dir {run_dir} --resume auto"
        return f"a process that reads data died; {cure} ({error})"
    if not isinstance(error, _EXPECTED_ERRORS):
        return None
    # The parser wraps the error of a class that refuses its arguments into a list of all types that it tried.
    while str(error).startswith("Does not validate against any of") and error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _is_dead_data_worker(error: BaseException) -> bool:
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in str(error)
    # Death between the announcement of a batch and its fetching shows as a broken connection.
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ConnectionError | EOFError) and any("torch/utils/data" in f.filename for f in frames)


def keep_traceback(run_dir: Path | None) -> None:
    """Write the traceback of the error that is being handled into the run folder, and say where."""
    if run_dir is not None and run_dir.is_dir():
        path = run_dir / "error.txt"
        path.write_text(traceback.format_exc(), encoding="utf-8")
        print(f"The traceback is in {path}", file=sys.stderr)


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    work: Callable[[argparse.Namespace], str],
    stopped: str = "",
) -> int:
    """Run ``work``, print what it returns, and say an error that the user can cure in one line: the exit status.

    ``stopped`` is said after Ctrl-C.
    """
    options = parser.parse_args(list(arguments))
    set_up_cpu()
    try:
        text = work(options)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    except Exception as error:
        words = words_for(error, None)
        if words is None:
            raise
        print(f"{parser.prog}: error: {words}", file=sys.stderr)
        return 1
    print(text)
    return 0
