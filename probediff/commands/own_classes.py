"""Classes of one's own on the command line of ``fit``: the network, the optimiser, the schedule of its rate."""

import argparse
import importlib
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from torch import nn
from torch.optim import Optimizer

from probediff.denoisers import UNet
from probediff.files import parse_yaml
from probediff.runs.sources import make_importable
from probediff.training.module import DiffusionModule

#: Options that name a class.
_CLASSES = ("network", "optimizer", "lr_scheduler", "data")
_CLASS_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_FILES = (".yaml", ".yml", ".json")
_NETWORK = (
    "A class of your own, such as net.TinyDiT of the file net.py or diffusers.UNet2DModel, with its arguments as "
    "--network.NAME VALUE (--network.help CLASS explains them); or a file with the sizes of probediff's U-Net below."
)
_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


def names_network_class(arguments: Sequence[str]) -> bool:
    """Whether ``network`` is a class in these arguments of ``fit``, and not the sizes of probediff's U-Net.

    Classes that lie in the current folder can be imported from then on.

    Raises:
        ValueError: a configuration has sizes of the U-Net after a class was chosen, or its module has an error.
    """
    name: str | None = None
    for network in _networks(arguments):
        if isinstance(network, str) and _CLASS_NAME.fullmatch(network) and not network.endswith(_FILES):
            name = network
        elif isinstance(network, dict) and "class_path" in network:
            name = str(network["class_path"])
        elif isinstance(network, dict) and is_plain(network) and name is not None:
            raise ValueError(
                f"network must be the class {name} or the sizes of probediff's U-Net, got {next(iter(network))!r} "
                "after the class: leave out one of them, or name the class after the configuration with the sizes"
            )
    if name is None:
        return False
    try:
        importlib.import_module(name.rpartition(".")[0] or "torch")
    except ImportError:  # the parser says it, and which names there are
        pass
    except Exception as error:  # a module of one's own may raise anything, which the parser does not tell
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"--network must be a class that can be imported, got {name}: {words}") from error
    return True


def _networks(arguments: Sequence[str]) -> Iterator[Any]:
    """What options and configurations say of ``network``, in their order; classes here become importable on the way."""
    for option, value in _options(arguments):
        section, _, rest = option.partition(".")
        if len(option) > 1 and "config".startswith(option):
            config = _read(value)
            for path in _class_paths(config):
                make_importable(path)
            yield config.get("network") if isinstance(config, dict) else None
        elif section in _CLASSES and rest in ("", "class_path", "help"):
            make_importable(value)
            if section == "network":
                yield _read(value)


def is_plain(network: Mapping[str, Any]) -> bool:
    """Whether the section ``network`` of a configuration has sizes of probediff's U-Net."""
    return bool(network) and not _CLASS_KEYS & set(network)


def leave_out_sizes(config: Any) -> Any:
    """A configuration without the sizes of probediff's U-Net, where a class takes its place."""
    if isinstance(config, dict) and isinstance(network := config.get("network"), dict) and is_plain(network):
        return {key: value for key, value in config.items() if key != "network"}
    return config


def add_network(parser: LightningArgumentParser, is_class: bool) -> None:
    """``--network``, a class or the sizes of probediff's U-Net, and what the images say of it."""
    if is_class:
        parser.add_subclass_arguments(nn.Module, "network", fail_untyped=False, required=True)
    else:
        parser.add_class_arguments(UNet, "network")
        _explain(parser, "network", _NETWORK)
        for source, target in (("image_size", "image_size"), ("channels", "in_channels")):
            parser.link_arguments(f"data.{source}", f"network.{target}", apply_on="instantiate")
        # Noise and variance: the network of both losses, so that a checkpoint fits either.
        parser.link_arguments(
            "data.channels", "network.out_channels", compute_fn=lambda channels: 2 * channels, apply_on="instantiate"
        )
    parser.link_arguments(
        ("data.channels", "data.image_size"),
        "model.image_shape",
        compute_fn=lambda channels, size: (channels, size, size),
        apply_on="instantiate",
    )
    parser.link_arguments("network", "model.network", apply_on="instantiate")


@contextmanager
def explain_network_errors() -> Iterator[None]:
    """Say of an error while somebody else's network is made that it is one; it may be of any class."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        makers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        while cause.__cause__ is not None:
            cause = cause.__cause__
            makers += [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(cause.__traceback__)]
        modules = [maker for maker in makers if isinstance(maker, nn.Module)]
        if not modules or any(isinstance(module, DiffusionModule) for module in modules):
            raise
        words = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise ValueError(f"--network must be made with arguments that it takes, got {words}") from error


def add_optimizer(parser: LightningArgumentParser) -> None:
    """``--optimizer`` and ``--lr_scheduler``, which Lightning's command line links to the model."""
    parser.add_optimizer_args((Optimizer,), link_to="model.optimizer")
    parser.add_lr_scheduler_args(link_to="model.lr_scheduler")
    for name in ("optimizer", "lr_scheduler"):
        _explain(parser, f"model.{name}.help", argparse.SUPPRESS)


def _explain(parser: LightningArgumentParser, option: str, words: str) -> None:
    for action in parser._actions:
        if action.dest == option:
            action.help = words


def refuse_unused(config: Any, arguments: Sequence[str]) -> None:
    """Raise ValueError for an option of the default optimiser that is typed beside another optimiser."""
    typed = [option for option, _ in _options(arguments)]
    for name, instead in (("learning_rate", "lr"), ("weight_decay", "weight_decay")):
        if config.optimizer is not None and f"model.{name}" in typed:
            raise ValueError(
                f"--model.{name} must be left out with --optimizer, got both: it is of the default AdamW; "
                f"give --optimizer.{instead}"
            )


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names, without dashes, and values of options as they are typed."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            following = arguments[index + 1] if index + 1 < len(arguments) else ""
            yield name.removeprefix("--").removesuffix("+"), value if equals else following


def _read(text: str) -> Any:
    """What a value says, or the file that it names; the text itself where that cannot be read: the parser tells why."""
    with suppress(OSError, ValueError):
        # Of a pipe the parser could not read it again.
        path = Path(text)
        return parse_yaml(path.read_text(encoding="utf-8") if path.is_file() else text)
    return text


def _class_paths(config: Any) -> Iterator[str]:
    """Names of classes in a configuration, however deep."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, str) and key in ("class_path", *_CLASSES):
            yield value
        yield from _class_paths(value)
    for part in config if isinstance(config, list) else ():
        yield from _class_paths(part)
