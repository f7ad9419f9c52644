"""What a number depends on: its settings, and the conditions that change no more than its rounding."""

from collections.abc import Mapping
from typing import Any

#: Keys of the conventions that say where and how it was computed. Earlier versions recorded none of them but the last.
CONDITIONS = (
    *("device", "cpu_capability", "num_threads", "num_processes", "tf32", "deterministic", "torch"),
    "batch_size",
)
#: Key of a record, not of its conventions, because it is another one at every step: ``ProbeModel.digest``.
WEIGHTS = "weights_sha256"
#: Keys for the options of a probe, in its conventions, and of all probes that were asked, in the record of an event.
OPTIONS, PROBES = "options", "probes"
#: What things are called; beside each stands the digest of its content, which decides.
NAMES = ("model", "images", "reference", "statistics", "statistics_images", "codes_of")
#: Of checkpoints in another precision: each has its own, and the digest of its weights decides.
_STORED = "stored_dtype"


def settings_in(conventions: Mapping[str, Any]) -> dict[str, Any]:
    """The conventions without the conditions: equal settings make numbers comparable."""
    return {key: value for key, value in conventions.items() if key not in CONDITIONS}


def differing_settings(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that both name and that differ: key -> (there, wanted).

    A key that only one of them has is new in its version, and says nothing about the other.
    """
    theirs, ours = settings_in(there), settings_in(as_json(wanted))
    return {key: (theirs[key], ours[key]) for key in ours if key in theirs and theirs[key] != ours[key]}


def all_differing_settings(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The same of two of this version, where a key that only one of them has is a difference (None); names are none."""
    theirs, ours = settings_in(there), settings_in(as_json(wanted))
    keys = [key for key in {**ours, **theirs} if key not in (*NAMES, _STORED)]
    return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}


def as_json(value: Any) -> Any:
    """What a value is after a round trip through JSON."""
    if isinstance(value, Mapping):
        return {key: as_json(part) for key, part in value.items()}
    return [as_json(part) for part in value] if isinstance(value, list | tuple) else value
