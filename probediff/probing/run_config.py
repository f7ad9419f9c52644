"""The configuration of a run that `probediff fit` did not start: how its model is built again, settings and probes."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from probediff.probing.probe import RESERVED, Probe
from probediff.probing.settings import PassSettings
from probediff.runs.aside import set_aside
from probediff.runs.catalogue import PROBES
from probediff.runs.changes import compare_configs
from probediff.runs.conditions import as_json
from probediff.runs.configuration import CONFIG, FOREIGN, MODULE, has_checksum, refuse_secrets
from probediff.runs.folder import RunFolder
from probediff.runs.sources import locate

#: Sections that only `probediff fit` writes together.
_OF_FIT = {"network", "data", "model"}
#: All that is known of a probe that is not asked for.
_OFF = {"enabled": False}


def describe_probes(settings: PassSettings, probes: Sequence[Probe]) -> dict[str, Any]:
    """Settings and probes as `probediff fit` writes them, so that `probediff probe` takes them for its defaults."""
    sections: dict[str, Any] = {name: dict(_OFF) for name in PROBES if name not in RESERVED}
    foreign: dict[str, Any] = {}
    for probe in probes:
        if probe.name() in PROBES:
            sections[probe.name()] = {"enabled": True, **probe.options()}
        else:
            foreign[probe.name()] = {"enabled": True, **locate(type(probe)), "init_args": probe.options()}
    described = {"probing": {"settings": asdict(settings)}, **sections}
    return dict(as_json(described | ({FOREIGN: foreign} if foreign else {})))


def begin_run(folder: RunFolder, config: Mapping[str, Any], step: int | None) -> None:
    """Write what a run is into its folder; of one that goes on, compare it and note what has changed.

    Args:
        folder: the run's folder, which is there.
        config: plain types.
        step: that the run goes on from; None for a new one.

    Raises:
        ValueError: the run that is there is another one, or its configuration is damaged.
    """
    text = yaml.safe_dump(dict(config), sort_keys=False)
    refuse_secrets(text)
    is_ours = folder.config_path.is_file() and has_checksum(folder.config_path)
    if step is not None and folder.config_path.is_file() and folder.config().keys() >= _OF_FIT:
        return  # a run of `probediff fit`, which goes on by other means; earlier versions wrote no checksum
    if step is None or not is_ours:
        if folder.config_path.is_file():
            aside = set_aside(folder.path, [CONFIG])
            warnings.warn(f"a {CONFIG} that is not of this run is kept in {aside}", stacklevel=3)
        elif step is not None:
            warnings.warn(
                f"{folder.path} has no {CONFIG}: whether this start has the settings of its run is not known",
                stacklevel=3,
            )
        folder.save_config(text)
        return
    measured = {record["probe"] for record in folder.records()}
    stored, asked = folder.config(), yaml.safe_load(text)
    for name in stored.keys() & asked.keys():
        if asked[name] == _OFF:  # who leaves a probe out says nothing of its options
            asked[name] = stored[name] | _OFF
    changes, refused = compare_configs(stored, asked, {}, measured)
    if refused:
        lines = [f"  {key}: {before!r} there, {now!r} now" for key, (before, now) in refused.items()]
        raise ValueError(
            f"the run in {folder.path} has other settings, which must stay while it goes on:\n"
            + "\n".join(lines)
            + "\ngive them as they are there, or train into another folder"
        )
    if changes:
        words = ", ".join(f"{key} from {before!r} to {now!r}" for key, (before, now) in changes.items())
        warnings.warn(f"changed from step {step} on: {words}", stacklevel=3)
    folder.append_history(step, changes)


def describe_loop(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a training loop of one's own; what it trains is known to whoever wrote it.

    Raises:
        ValueError: a value that is no plain type.
    """
    for key, value in config.items():
        try:
            yaml.safe_dump(as_json(value))
        except yaml.YAMLError as error:
            raise ValueError(f"config must hold plain types, got {key}={value!r}; give str({key})") from error
    unknown = "a training loop of its own, which hands its model to ProbeRunner"
    return {MODULE: {"unknown": unknown}} | ({"loop": as_json(dict(config))} if config else {})
