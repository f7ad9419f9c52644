"""The parser of the commands that work with models, and the options that they share."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from jsonargparse import DefaultHelpFormatter
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser

from probediff import callbacks
from probediff.callbacks import Probe
from probediff.commands.outside_probes import installed_probes
from probediff.commands.parse_errors import explain
from probediff.commands.runner import split_help
from probediff.models.base import Weights
from probediff.models.source import ModelChoice
from probediff.runs.configuration import hide_secrets
from probediff.schedule import Convention

T = TypeVar("T")

#: What every command that works with a model takes.
MODEL_HELP = "run folder, checkpoint, exact denoiser exact:RUN,h=0.4, state dict, or diffusers pipeline"


class WholeNumbers(tuple[int, ...]):
    """One or several whole numbers, typed as 10,100,1000 or [10, 100, 1000]."""

    @classmethod
    def read(cls, value: Any) -> WholeNumbers:
        """Read what a user typed or a configuration holds."""
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        try:
            return cls(int(part) for part in text.strip("[] ").split(","))
        except ValueError:
            raise ValueError(
                f"expected whole numbers with commas between, such as 10,100,1000, got {value!r}"
            ) from None

    def __str__(self) -> str:
        """As it is typed."""
        return ",".join(map(str, self))


register_type(WholeNumbers, list, WholeNumbers.read)


@dataclass(frozen=True)
class SampleSettings:
    """How images are sampled and inverted, and by which weights.

    Args:
        num_samples: how many samples; of images that are given, so many at most.
        convention: DDIM convention, openai or diffusers; each model's own by default.
        noise_seed: seed of the noises; noise i depends on this seed and i only.
        batch_size: images per network evaluation.
        weights: the averaged (ema) or the raw weights of a run; ema by default.
        ema_rate: which average; the first of the run by default.
    """

    num_samples: int = 64
    convention: Convention | None = None
    noise_seed: int = 420
    batch_size: int = 64
    weights: Weights | None = None
    ema_rate: float | None = None


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Description and examples line by line as they are, every option with its type and default."""

    def _expand_help(self, action: argparse.Action) -> str:
        return super()._expand_help(action).replace("<class 'WholeNumbers'>", "whole numbers")


class CommandParser(LightningArgumentParser):
    """A parser that takes old spellings too, and whose errors say which key may have been meant."""

    def __init__(self, name: str = "", arguments: str = "", text: str | None = None, **settings: Any) -> None:
        """Take the name of the command, what must be typed after it, and its help; the rest as jsonargparse does."""
        description, examples = split_help(text)
        merged: dict[str, Any] = {
            "prog": f"probediff {name}",
            # The library makes parsers of this class for the help of another class, which has no name.
            "usage": f"probediff {name} {arguments} [--KEY VALUE ...]" if name else None,
            "description": description,
            "epilog": examples,
            "formatter_class": _HelpFormatter,
            "allow_abbrev": True,
        } | settings
        super().__init__(**merged)

    def parse_args(self, args: Sequence[str], *others: Any, **settings: Any) -> Any:  # type: ignore[override]
        """Parse arguments in the spelling of today or of earlier versions."""
        for argument in args:
            self._refuse_pipe(argument)
        return super().parse_args([self._respell(argument) for argument in args], *others, **settings)

    def _respell(self, argument: str) -> str:
        # Settings of a pass were spelt --num_samples in some commands and --settings.num_samples in others.
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):  # a value, such as a folder that is called like an option
            return argument
        keys, key = [action.dest for action in self._actions], name.removeprefix("--")
        return f"--settings.{key}{equals}{value}" if key not in keys and f"settings.{key}" in keys else argument

    def _refuse_pipe(self, argument: str) -> None:
        # The library opens what may be a configuration, and would wait for a writer. A shell's <(...) has one.
        path = Path(argument.partition("=")[2] if argument.startswith("--") else argument)
        with suppress(OSError):
            if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
                self.error(f"{path} must be a plain file, got a pipe; name a file")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with what was expected, what came and what to type, in one line."""
        words = explain(message, [action.dest for action in self._actions])
        if "required: data" in message or 'Key "model" is required' in message:
            words = f"a configuration must be given, got none; {_example()}"
        super().error(hide_secrets(words), ex)

    def add_model_options(self, out: str, settings: type = SampleSettings, skip: Set[str] = frozenset()) -> None:
        """Which weights MODEL stands for, how it samples, where it runs, and where results go.

        Args:
            out: folder of the results by default.
            settings: class of the options ``--settings.*``.
            skip: settings that the command does not have.
        """
        elsewhere = {"model", "weights", "ema_rate", "trust", "among_others"}
        self.add_class_arguments(ModelChoice, as_group=True, skip=elsewhere)
        self.add_argument(
            "--trust",
            action="store_true",
            help="import and run the classes of a run's network and data where they are none of probediff; give it for "
            "runs of your own or of people you trust",
        )
        self.add_class_arguments(settings, "settings", skip=set(skip))
        self.add_argument("--device", type=str | None, help="cuda, cuda:1 or cpu; by default cuda where there is one")
        self.add_argument("--out", metavar="DIR", type=str | None, help=f"folder of the results; by default {out}")


def _example() -> str:
    """What ``fit`` can start with here: an installed package brings no configurations along."""
    for folder in (Path("configs"), Path(__file__).parents[2] / "configs"):
        if names := sorted(path.name for path in folder.glob("*.yaml")):
            first = "digits.yaml" if "digits.yaml" in names else names[0]
            return f"start with --config {folder / first}, seconds on a CPU (in {folder}: {', '.join(names)})"
    return (
        "give --data Digits --network.channels 16 --network.attention_resolutions '[4]' --trainer.max_steps 1000, "
        "seconds on a CPU"
    )


def pick(cls: type[T], options: Any, **others: Any) -> T:
    """The dataclass whose fields the options, the settings among them, or ``others`` name."""
    values = {**options.settings, **options, **others}
    return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})  # type: ignore[arg-type]


def device_of(options: Any) -> torch.device:
    """The device that ``--device`` names; raises ValueError for what is no device, or none of this machine."""
    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(f"--device must be cuda, cuda:1 or cpu, got {options.device!r}") from None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"--device must be one that this machine has, got {options.device!r}; leave it out, or give cpu ({why})"
        ) from error
    return device


def join_processes(options: Any) -> torch.device:
    """The device of this process; under ``torchrun`` all processes share the work."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device_of(options)
    local = int(os.environ["LOCAL_RANK"])
    backend, name = ("nccl", f"cuda:{local}") if torch.cuda.is_available() else ("gloo", "cpu")
    # The others wait while the first process measures.
    torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
    return torch.device(options.device or name)


def check_at_least(options: Any, **least: int) -> None:
    """Raise ValueError for an option or setting below its least value; None is always allowed."""
    for name, smallest in least.items():
        value = options[name] if name in options else options.settings[name]
        if value is not None and value < smallest:
            raise ValueError(f"--{name} must be at least {smallest}, got {value}")


def available_probes() -> dict[str, type[Probe]]:
    """All probes by configuration key: a new file in ``probediff.callbacks`` is found by itself, then entry points."""
    probes: dict[str, type[Probe]] = {}
    for part in pkgutil.iter_modules(callbacks.__path__):
        try:
            module = importlib.import_module(f"probediff.callbacks.{part.name}")
        except ImportError as error:
            raise ImportError(
                f"callbacks/{part.name}.py cannot be imported: {error}; mend it or take it away"
            ) from error
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, Probe) and member is not Probe and member.__module__ == module.__name__:
                probes[member.name()] = member
    return probes | installed_probes(probes)
