"""What one probe found at one step, on its way to the records and to loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from probediff.runs.descriptions import Kind
from probediff.runs.record import ERROR_PREFIX

#: Training step and probe: what one result belongs to.
Event = tuple[int, str]


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found at one step.

    Attributes:
        values: numbers for the record and the dashboards, keys ``<quantity>[_<unit>]``.
        arrays: per-sample tensors, kept beside the samples.
        pictures: (3, H, W) uint8 pictures by name.
        histograms: names of ``arrays`` that dashboards show as histograms.
        error: why there is no result, or none of a part.
        tables: names of small tables for W&B; the column ``c`` of a table ``t`` is the array ``t_c``.
        seconds: how long parts of the measurement took, by name, for the record of the event's times.
        standard_errors: of some of ``values``, under the same keys: the standard deviation of the number over fresh
            noises, as many as the pass had. NaN where too few samples tell it.
    """

    values: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    histograms: tuple[str, ...] = ()
    error: str = ""
    tables: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    standard_errors: dict[str, float] = field(default_factory=dict)

    def validate(self) -> ProbeResult:
        """The same with plain numbers, or an error that says what cannot be stored.

        Raises:
            TypeError, ValueError: a value, array, picture or name that cannot be stored.
        """
        for key in (*self.values, *self.arrays, *self.pictures):
            _check_name(key)
        values = {key: _number(key, value) for key, value in self.values.items()}
        errors = {key: _number(key, value) for key, value in self.standard_errors.items()}
        if wrong := [key for key, error in errors.items() if key not in values or error < 0]:
            raise ValueError(
                f"standard_errors must be 0 or more and of values, got {wrong[0]!r}: {errors[wrong[0]]}; there are "
                f"{list(values)}"
            )
        for key, array in self.arrays.items():
            if not isinstance(array, Tensor) or array.is_complex() or array.layout != torch.strided:
                raise TypeError(f"array {key!r} must be a dense tensor of real numbers, got {_kind(array)}")
        for key, picture in self.pictures.items():
            is_tensor = isinstance(picture, Tensor) and picture.dtype == torch.uint8
            if not is_tensor or picture.ndim != 3 or len(picture) != 3:
                raise TypeError(f"picture {key!r} must be a (3, H, W) tensor of uint8, got {_kind(picture)}")
        if missing := [key for key in self.histograms if key not in self.arrays]:
            raise ValueError(f"histograms must be names of arrays, got {missing[0]!r}; there are {list(self.arrays)}")
        for name in self.tables:
            shapes = {tuple(column.shape) for column in self.table(name).values()}
            if len(shapes) != 1 or len(next(iter(shapes))) != 1:
                raise ValueError(
                    f"the columns of the table {name!r} must be arrays {name}_* of one length, got the shapes "
                    f"{sorted(shapes)} among {list(self.arrays)}"
                )
        return replace(self, values=values, standard_errors=errors, error=str(self.error))

    def table(self, name: str) -> dict[str, Tensor]:
        """The columns of one of its ``tables``, in their order, each (rows,)."""
        prefix = f"{name}_"
        return {key.removeprefix(prefix): array for key, array in self.arrays.items() if key.startswith(prefix)}

    def finite_values(self, name: str) -> Tensor:
        """The values of one of its ``histograms`` that fall into a bin, flat float64: NaN and infinities do not."""
        values = self.arrays[name].detach().double().flatten().cpu()
        return values[values.isfinite()]

    def kinds(self) -> dict[str, Kind]:
        """What a dashboard shows under which key."""
        kinds: dict[str, Kind] = dict.fromkeys(self.values, "number")
        kinds |= dict.fromkeys(self.pictures, "picture")
        kinds |= dict.fromkeys((f"{name}_histogram" for name in self.histograms), "histogram")
        return kinds | dict.fromkeys((f"{name}_table" for name in self.tables), "table")

    @property
    def is_shown(self) -> bool:
        """Whether a logger gets anything of it."""
        return bool(self.values or self.pictures)


def scalars_of(results: Mapping[str, ProbeResult]) -> dict[str, float]:
    """The numbers of several probes under the keys that loggers have for them: ``probe/<probe>/<quantity>``."""
    return {f"probe/{probe}/{key}": value for probe, result in results.items() for key, value in result.values.items()}


def errors_of(results: Mapping[str, ProbeResult]) -> dict[str, float]:
    """The standard errors of several probes under the keys of loggers: ``standard_error/<probe>/<quantity>``."""
    return {
        f"{ERROR_PREFIX}/{probe}/{key}": error
        for probe, result in results.items()
        for key, error in result.standard_errors.items()
    }


def _check_name(key: object) -> None:
    if not isinstance(key, str) or not key or "/" in key:
        raise TypeError(f"names in a result must be words without '/', got {key!r}")


def _number(key: str, value: object) -> float:
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, int | float):
        raise TypeError(f"value {key!r} must be a number, got {_kind(value)}")
    return plain


def _kind(value: object) -> str:
    shape = f" {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else ""
    return f"{type(value).__name__}{shape}"


@runtime_checkable
class ResultLogger(Protocol):
    """A logger that takes whole results, pictures and histograms too, as this package's one for W&B does."""

    def log_result(self, step: int, probe: str, result: ProbeResult) -> None:
        """Log everything of one probe under the training step."""


@runtime_checkable
class RememberingLogger(ResultLogger, Protocol):
    """A logger that can tell what it got in earlier starts of a run."""

    def missing_events(self, events: Sequence[Event]) -> list[Event]:
        """Those of ``events`` that it has not, in their order; none where it cannot be known."""


@runtime_checkable
class CheckpointLogger(ResultLogger, Protocol):
    """A logger that is told of checkpoints too."""

    def log_checkpoint(self, step: int, path: Path, weights_sha256: str) -> None:
        """Refer to the checkpoint of a probe event, before the last result of the event is logged."""
