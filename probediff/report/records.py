"""One folder of records, and what of it may stand beside a run's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from probediff.runs.conditions import OPTIONS, WEIGHTS
from probediff.runs.descriptions import Description
from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.record import STANDARD_ERRORS

#: Folders of ``probediff probe`` below a run; an exact denoiser has its own name, any other is that of a model.
KINDS = ("replay", "final_samples", "gaussian", "images")
EXACT = "exact-"
#: Of conventions that are computed with.
_TYPES: dict[str, Any] = {"num_steps": int, "num_samples": int, "image_shape": list, "fitted_to": int}
_TYPES |= {"bandwidth": (int, float), "dropped_weight": (int, float), "denoiser": str}
#: What values share with the run's own that they stand beside; most of all T1 depends on N.
_SHARED = ("num_samples", "num_steps", "convention", "clip", "clip_inversion", "inversion", "schedule")
_SPELLED = {"num_samples": "N", "num_steps": "DDIM steps", "images": "inverted", "inversion": "inversion method"}
#: Probes that measure images that they are given, and whose standard errors are over these.
_OF_IMAGES = ("denoiser_structure", "whitening")
#: Options of probes that no value depends on.
_OF_PICTURES = ("num_shown",)
#: Record of the similarity to a run's final samples, and its key for which weights those are of.
TO_NETWORK, _FINAL_WEIGHTS = "network_similarity", "final_weights_sha256"
_TO_FINAL = "checkpoint_similarity_final"


@dataclass(frozen=True)
class Measured:
    """A number of one run.

    Attributes:
        value: the number.
        error: its standard error, over what `errors_over` says; None where none was recorded.
    """

    value: float
    error: float | None = None

    def scaled(self, factor: float) -> Measured:
        """So many times the number."""
        return Measured(factor * self.value, None if self.error is None else abs(factor) * self.error)


@dataclass(frozen=True)
class ProbeRecords:
    """One folder of records.

    Attributes:
        folder: where they lie, pictures and samples beside them.
        kind: ``own`` for what a run recorded while it trained, otherwise one of ``KINDS``, ``model``, or the name
            of its folder for an exact denoiser.
        records: in the order of writing.
        cut_short: whether the last line is incomplete, as a kill leaves it; it does not count.
    """

    folder: RunFolder
    kind: str
    records: tuple[dict[str, Any], ...]
    cut_short: bool = False

    @cached_property
    def _by_probe(self) -> dict[str, dict[int, dict[str, Any]]]:
        by_probe: dict[str, dict[int, dict[str, Any]]] = {}
        for record in self.records:
            by_probe.setdefault(record["probe"], {})[record["step"]] = record
        return {probe: dict(sorted(by_step.items())) for probe, by_step in by_probe.items()}

    @cached_property
    def _catalogue(self) -> dict[str, Description]:
        return self.folder.catalogue()

    def describe(self, probe: str) -> Description:
        """What is known of a probe."""
        return self._catalogue.get(probe, Description(probe))

    def probe_names(self) -> list[str]:
        """Names of the probes that have records, in the order of their first one."""
        return list(self._by_probe)

    def values(self, probe: str) -> dict[int, dict[str, float]]:
        """Finite numbers of one probe by step, ascending; steps without any are left out."""
        numbers = {
            step: {key: float(v) for key, v in record.get("values", {}).items() if isinstance(v, int | float)}
            for step, record in self._by_probe.get(probe, {}).items()
        }
        return {step: values for step, values in numbers.items() if values}

    def series(self, probe: str, key: str) -> dict[int, float]:
        """One number of one probe by step, ascending."""
        return {step: values[key] for step, values in self.values(probe).items() if key in values}

    def standard_errors(self, probe: str) -> dict[int, dict[str, float]]:
        """Standard errors of ``values`` by step, as far as they were recorded and are finite."""
        numbers = {
            step: {key: float(v) for key, v in record.get(STANDARD_ERRORS, {}).items() if isinstance(v, int | float)}
            for step, record in self._by_probe.get(probe, {}).items()
        }
        return {step: errors for step, errors in numbers.items() if errors}

    def measured(self, probe: str) -> dict[int, dict[str, Measured]]:
        """``values`` with their standard errors."""
        errors = self.standard_errors(probe)
        return {
            step: {key: Measured(value, errors.get(step, {}).get(key)) for key, value in values.items()}
            for step, values in self.values(probe).items()
        }

    def measured_series(self, probe: str, key: str) -> dict[int, Measured]:
        """``series`` with its standard errors."""
        errors = self.standard_errors(probe)
        return {step: Measured(v, errors.get(step, {}).get(key)) for step, v in self.series(probe, key).items()}

    def errors(self, probe: str) -> dict[int, str]:
        """Why the probe had no result, by step."""
        return {step: r["error"] for step, r in self._by_probe.get(probe, {}).items() if r.get("error")}

    def conventions(self, probe: str | None = None) -> list[dict[str, Any]]:
        """The different conventions of a probe's records (of all records without ``probe``), in order."""
        different: list[dict[str, Any]] = []
        for record in self.records:
            conventions = record.get("conventions") or {}
            if probe in (None, record["probe"]) and "num_samples" in conventions and conventions not in different:
                different.append(conventions)
        return different

    def convention(self, key: str) -> Any:
        """One convention of the newest record that names it in its type, None where no record does."""
        kind = _TYPES.get(key, object)
        return next((c[key] for c in reversed(self.conventions()) if key in c and isinstance(c[key], kind)), None)

    @property
    def is_exact(self) -> bool:
        """Whether an exact denoiser was probed."""
        return is_exact(self.kind)

    def differing_from(self, own: ProbeRecords) -> dict[str, tuple[Any, Any]]:
        """Why values may not stand beside a run's own: key -> (here, there)."""
        pairs = {key: (_plain(self.convention(key)), _plain(own.convention(key))) for key in _SHARED}
        differing = {key: pair for key, pair in pairs.items() if None not in pair and pair[0] != pair[1]}
        images = self.convention("images")
        return differing if images is None else differing | {"images": (images, "own samples")}

    def other_options(self, own: ProbeRecords) -> dict[str, dict[str, tuple[Any, Any]]]:
        """Probes whose options are not those of a run's own records: probe -> option -> (here, there)."""
        differing = {}
        for probe in self.probe_names():
            # The similarity to the final network's samples stands beside that of its own earlier ones.
            here, there = self._options(probe), own._options(_TO_FINAL if probe == TO_NETWORK else probe)
            shared = (key for key in here if key in there and key not in _OF_PICTURES)
            if pairs := {key: (here[key], there[key]) for key in shared if here[key] != there[key]}:
                differing[probe] = pairs
        return differing

    def _options(self, probe: str) -> dict[str, Any]:
        """Those of the newest record that has them."""
        records = reversed(self._by_probe.get(probe, {}).values())
        known = ((record.get("conventions") or {}).get(OPTIONS) for record in records)
        return next((options for options in known if isinstance(options, dict)), {})

    def without(self, probes: Collection[str]) -> ProbeRecords:
        """The records of all other probes."""
        return replace(self, records=tuple(r for r in self.records if r["probe"] not in probes)) if probes else self

    @property
    def last_step(self) -> int | None:
        """The last step with a record, None without records."""
        return max((record["step"] for record in self.records), default=None)


def errors_over(probe: str) -> str:
    """What the standard errors of a probe's numbers are over."""
    return "fresh images" if probe in _OF_IMAGES else "fresh noises"


def stored_error(numbers: Mapping[str, Any], key: str) -> float | None:
    """Standard error of one of the numbers of a result, which has them beside its numbers; None where it has none."""
    errors = numbers.get(STANDARD_ERRORS)
    error = errors.get(key) if isinstance(errors, dict) else None
    return float(error) if isinstance(error, int | float) and not isinstance(error, bool) and error >= 0 else None


def differing_in_words(differing: dict[str, tuple[Any, Any]]) -> str:
    """Settings that differ: here, not there."""
    return "; ".join(f"{_SPELLED.get(key, key)} {here}, not {there}" for key, (here, there) in differing.items())


def is_exact(kind: str) -> bool:
    """Whether a folder of this name, or kind, is that of an exact denoiser, of its own samples or real images."""
    return kind in ("gaussian", "gaussian-images") or kind.startswith(EXACT)


def read_records(path: Path, kind: str) -> ProbeRecords:
    """Those of a folder."""
    folder = RunFolder(path)
    return ProbeRecords(folder, kind, tuple(folder.records()), folder.is_cut_short())


def drop_outdated(records: ProbeRecords, own: ProbeRecords) -> ProbeRecords:
    """The records without a similarity to samples that are not the run's final ones any more."""
    weights_of = {r["step"]: r.get(WEIGHTS) for r in own.records if r["probe"] == END_OF_EVENT}
    # A run without the probe has no similarities of its own; its last event is the final one then.
    known = {values.get("final_step") for values in own.values(_TO_FINAL).values()}
    finals = known or {max(weights_of, default=None)}

    def is_of_final(record: dict[str, Any]) -> bool:
        step = record["values"].get("final_step")
        weights = weights_of.get(step), record.get(_FINAL_WEIGHTS)
        return step in finals and (None in weights or weights[0] == weights[1])

    kept = (r for r in records.records if r["probe"] != TO_NETWORK or is_of_final(r))
    return replace(records, records=tuple(kept))


def _plain(value: Any) -> Any:
    """A convention in a word; of an inversion the method."""
    return value.get("method") if isinstance(value, dict) else value
