"""How every command is run: what is printed on an error or on Ctrl-C, and the exit status."""

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probediff.commands.signals import INTERRUPTED
from probediff.display.text import printable
from probediff.exceptions import FeatureLoadError, NonFiniteLossError, PassFailedError, WorkerDiedError
from probediff.files import NO_SPACE

#: Errors that the user can cure; all others are faults of the program.
_CURABLE = (ValueError, OSError, ImportError, FeatureLoadError, NonFiniteLossError, PassFailedError, WorkerDiedError)
#: How PyTorch says that there is no memory for a tensor outside of a GPU.
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
#: Exit status of work that came to its end but could not keep all of it (EX_IOERR of sysexits.h).
STATUS_LOST = 74


def describe_error(error: BaseException) -> str | None:
    """One line for an error that the user can cure; None for what is a fault of the program."""
    if isinstance(error, PassFailedError) and error.__cause__ is not None:
        error = error.__cause__
    torch = sys.modules.get("torch")  # Without torch there are no errors of torch.
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        cure = "lower --data.batch_size (training) or --probing.settings.batch_size (probes), then --resume auto"
        return f"the device ran out of memory; {cure} ({str(error).splitlines()[0]})"
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    if lightning is not None and isinstance(error, lightning.MisconfigurationException):
        return f"{' '.join(str(error).split())}; see the options --trainer.*"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error)):
        why = str(error).partition("you tried to ")[2].partition(". ")[0] or str(error) or "no details"
        return f"what is made must fit into this machine's memory, got more ({why}); lower the number that is so large"
    omegaconf = sys.modules.get("omegaconf.errors")
    if omegaconf is not None and isinstance(error, omegaconf.OmegaConfBaseException):
        return f"a value ${{...}} must name a key or variable that there is: {' '.join(str(error).split())}"
    if not isinstance(error, _CURABLE):
        return None
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        place = f" to write {error.filename}" if error.filename else ""
        return f"no space left{place} ({error.strerror}); free some, then give the command again"
    # The parser wraps the error of a class that refuses its arguments into a list of all types that it tried.
    while str(error).startswith("Does not validate against any of") and error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def run_guarded(name: str, work: Callable[[], int | None], stopped: str = "") -> int:
    """Do the work of a command and turn errors and Ctrl-C into words and an exit status.

    Args:
        name: of the command, as it is typed.
        work: prints its results and returns the exit status, None for 0. Notes of its errors are printed too.
        stopped: what to do after Ctrl-C.

    Returns:
        The exit status.
    """
    if "torch" in sys.modules:
        from probediff.commands.cpu import set_up_cpu

        set_up_cpu()
    warnings.formatwarning = lambda message, *_: printable(f"{name}: warning: {message}\n", keep="\n")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"\n{name}: {stopped or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        words = describe_error(error)
        if words is None:
            raise
        text = "\n".join([f"{name}: error: {words}", *getattr(error, "__notes__", ())])
        print(printable(text, keep="\n"), file=sys.stderr)
        return 1


def run_command(
    parser: argparse.ArgumentParser, arguments: Sequence[str], work: Callable[[Any], int | None], stopped: str = ""
) -> int:
    """Parse the arguments and do the work with them; see ``run_guarded``."""
    options = parser.parse_args(list(arguments))
    return run_guarded(parser.prog, lambda: work(options), stopped)


def split_help(text: str | None) -> tuple[str, str]:
    """What a command does, and examples of it: the docstring of its module in two."""
    description, heading, examples = (text or "").strip().partition("\n\nExamples:")
    return description, (heading + examples).strip()


def light_parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """A parser for commands that start without torch.

    Args:
        name: of the command.
        text: what it does, and examples; shown line by line as it is.
    """
    description, examples = split_help(text)
    style = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        prog=f"probediff {name}", description=description, epilog=examples, formatter_class=style
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Let the command take runs, and how they are averaged."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="folder of a run, of a model that was probed, or a folder of runs (a sweep)",
    )
    parser.add_argument(
        "--group_by",
        metavar="KEY",
        help="average the runs with the same value of this key of config.yaml (dotted, such as model.learning_rate); "
        "by default those with the same configuration except the seed",
    )
