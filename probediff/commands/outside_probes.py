"""Probes that are no part of this package: of installed packages, and classes that the configuration of a run names."""

import warnings
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from probediff import probing
from probediff.callbacks import Probe
from probediff.runs.conditions import PROBES
from probediff.runs.configuration import CONFIG, FOREIGN
from probediff.runs.folder import RunFolder
from probediff.runs.sources import CLASS_PATH, import_source

#: Under this name a package says which probes it brings: ``[project.entry-points."probediff.probes"]``.
GROUP = "probediff.probes"
_INIT_ARGS = "init_args"


def installed_probes(taken: Collection[str]) -> dict[str, type[Probe]]:
    """The probes that installed packages bring, by configuration key; what cannot be used is left out with a warning.

    Args:
        taken: keys that are not free any more.
    """
    probes: dict[str, type[Probe]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        who = f"the probe {point.name} of {point.dist.name if point.dist else 'an installed package'}"
        try:
            cls = point.load()
            if not (isinstance(cls, type) and issubclass(cls, Probe)):
                raise TypeError(f"{point.value} must be a subclass of probediff.callbacks.Probe, got {cls!r}")
            if cls.name() in (*taken, *probes):
                raise ValueError(f"its key {cls.name()} must be free, but there is such a probe already")
        except Exception as error:  # a stranger's module may raise anything while it is imported
            warnings.warn(f"{who} is left out: {type(error).__name__}: {error}", stacklevel=2)
        else:
            probes[cls.name()] = cls
    return probes


def foreign_probes(run: Path, known: Collection[str], trust: bool) -> list[probing.Probe]:
    """The probes of a run whose classes its configuration names, and nothing installed brings.

    Without ``trust`` none is imported, and those that have records are named in a warning; so is what cannot be.

    Args:
        run: folder of the run.
        known: keys of the probes that there are anyway.
        trust: import and run the classes.

    Raises:
        ValueError: a class that does not take its arguments.
    """
    folder = RunFolder(run)
    named = _named_classes(folder.config())
    if not named:
        return []
    if not trust:
        asked = (record.get(PROBES) for record in folder.records())
        names = {name for probes in asked if isinstance(probes, dict) for name in probes} - set(known)
        if names:
            warnings.warn(
                f"left out: {', '.join(sorted(names))}, whose classes {run / CONFIG} names and would be imported; give "
                f"--trust if you trust whoever wrote them",
                stacklevel=2,
            )
        return []
    probes = []
    for entry in named:
        where = f"a probe of {run / CONFIG}"
        try:
            cls = import_source(entry, where)
        except ValueError as error:  # the rest can be measured all the same
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        if not (isinstance(cls, type) and issubclass(cls, probing.Probe)):
            continue  # a callback of another kind
        try:
            probes.append(_build(cls, entry.get(_INIT_ARGS) or {}))
        except Exception as error:  # a stranger's class
            raise ValueError(f"{where} must take its arguments, got {type(error).__name__}: {error}") from error
    return probes


def _named_classes(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run names in ``trainer.callbacks``, or, where `probediff fit` did not start it, by itself."""
    trainer = config.get("trainer")
    listed = trainer.get("callbacks") if isinstance(trainer, dict) else None
    foreign = config.get(FOREIGN)
    entries = [*_as_list(listed), *(foreign.values() if isinstance(foreign, dict) else ())]
    own = ("lightning.", "pytorch_lightning.", "probediff.")
    classes = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get(CLASS_PATH), str)]
    return [entry for entry in classes if entry.get("enabled", True) and not entry[CLASS_PATH].startswith(own)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _build(cls: type[probing.Probe], arguments: Mapping[str, Any]) -> probing.Probe:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "probe", fail_untyped=False)
    probe: probing.Probe = parser.instantiate(parser.parse_object({"probe": dict(arguments)}))["probe"]
    return probe
