"""Classes and arguments that the configuration of a run names, while the run is only read: the words are data.

Nothing is imported but what is installed with this package and imported already, no ``${...}`` is resolved, and
arguments have the types that their class asks for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from probediff import data
from probediff.data import ImageDataModule
from probediff.denoisers import UNet
from probediff.runs.configuration import CONFIG
from probediff.runs.sources import CLASS_PATH, import_source, make_importable, refuse_untrusted


def typed_arguments(cls: type, values: Any, place: str) -> dict[str, Any]:
    """The values as the arguments of a class.

    Args:
        cls: the class, or a dataclass.
        values: name -> value, as YAML gives it.
        place: where they come from, for the message.

    Raises:
        ValueError: they are no mapping, one is no argument of the class, or one has another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} must be names and values, got {str(values)[:80]!r}; restore the file from a copy")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False)
    known = {action.dest for action in parser._actions}
    if foreign := [key for key in values if key not in known]:
        raise ValueError(f"{place} must be arguments of {cls.__name__} in this version, got {foreign[0]!r}")
    for key, value in values.items():
        # The parser would read the file that a text in the place of several arguments names, or look for the class.
        is_group = any(name.startswith(f"{key}.") for name in known)
        if is_group and (not isinstance(value, Mapping) or "class_path" in value):
            raise ValueError(f"{place} must have names and values in {key}, got {str(value)[:80]!r}")
    try:
        typed = parser.parse_object(dict(values), defaults=False).as_dict()
    except ArgumentError as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{place} must have the types that {cls.__name__} asks for, got: {words}") from None
    return {key: typed[key] for key in values}


def build_data(run: Path, section: Any, trust: bool) -> ImageDataModule:
    """The data module that the section ``data`` of a run's configuration describes; nothing is loaded yet.

    Args:
        run: folder of the run.
        section: class_path and init_args.
        trust: import and run a class that is not one of this package.

    Raises:
        ValueError: it names none, one that needs ``trust``, or arguments that it does not take.
    """
    place = f"data of {run / CONFIG}"
    section = typed_arguments(_Section, section, place)
    name, values = section.get("class_path", ""), section.get("init_args") or {}
    cls = _own_classes().get(name)
    try:
        if cls is not None:
            return cls(**typed_arguments(cls, values, place))
        return _trusted_class(name, place, trust)(**values)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{place} must be a data module and its arguments, got: {error}") from error


def build_network(section: Any, place: str, trust: bool) -> nn.Module:
    """The network that a class and its arguments describe; the global random state stays as it is.

    Args:
        section: class_path and init_args, as the configuration of a run or one of its checkpoints has them.
        place: where they come from, for the message.
        trust: import and run a class that is not one of this package.

    Raises:
        ValueError: it names none, one that needs ``trust``, or arguments that it does not take.
    """
    section = typed_arguments(_NetworkSection, section, place)
    name, values = section.get("class_path", ""), section.get("init_args") or {}
    if name in (f"{UNet.__module__}.UNet", "probediff.denoisers.UNet"):
        with torch.random.fork_rng():
            return UNet(**typed_arguments(UNet, values, place))
    refuse_untrusted(place, "probediff's U-Net", name, trust)
    make_importable(name)
    # By the means of ``probediff fit``, for an argument may be a class with arguments too.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network", fail_untyped=False, required=True)
    try:
        with torch.random.fork_rng():
            network = parser.instantiate(parser.parse_object({"network": section})).network
    except Exception as error:  # the class may raise anything
        words = " ".join(str(error).split())
        raise ValueError(f"{place} must be a network and its arguments, got {name!r}: {words}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{place} must be a torch.nn.Module, got {type(network).__name__} of {name!r}")
    return network


class _Section:
    """A class and its arguments in a configuration."""

    def __init__(self, class_path: str, init_args: dict[str, Any] | None = None) -> None: ...


class _NetworkSection:
    """Likewise, of a class that may take any names."""

    def __init__(
        self, class_path: str, init_args: dict[str, Any] | None = None, dict_kwargs: dict[str, Any] | None = None
    ) -> None: ...


def _own_classes() -> dict[str, type[ImageDataModule]]:
    """The data modules of this package by every name that they have; nobody's folder is looked into."""
    classes = [
        member
        for member in vars(data).values()
        if isinstance(member, type)
        and issubclass(member, ImageDataModule)
        and member is not ImageDataModule
        and member.__module__.startswith(f"{data.__name__}.")
    ]
    return {f"{module}.{cls.__name__}": cls for cls in classes for module in (data.__name__, cls.__module__)}


def _trusted_class(name: str, place: str, trust: bool) -> type[ImageDataModule]:
    refuse_untrusted(place, "a data module of probediff", name, trust)
    cls = import_source({CLASS_PATH: name}, place)
    if not (isinstance(cls, type) and issubclass(cls, ImageDataModule)):
        raise TypeError(f"{name} is no ImageDataModule")
    return cls
