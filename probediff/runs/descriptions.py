"""How the quantities that a probe records are described: what they are, their nulls, where they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, get_args

T = TypeVar("T")

#: What is under a key.
Kind = Literal["number", "picture", "histogram", "table"]
_NULL = "_null"
_UNITS = {"deg": "degrees", "seconds": "seconds", "share": "share"}


@dataclass(frozen=True)
class Column:
    """One quantity of a probe.

    Attributes:
        key: its name in the records; ``*`` stands for the name of a feature network or of any probe, or a noise level.
        kind: what it is.
        null: key of what chance gives; empty where nothing does, or where its name follows from the key.
        null_factor: how many times that chance gives.
        is_setting: whether it says how something was measured, so that no curve shows it.
        in_table: whether the table at the end of a run shows it.
        listed_as: heading under which ``probediff runs`` shows its last value; empty for not at all.
        panel: title of the panel that a dashboard shows several quantities in; empty where their names decide.
    """

    key: str
    kind: Kind = "number"
    null: str = ""
    null_factor: float = 1.0
    is_setting: bool = False
    in_table: bool = False
    listed_as: str = ""
    panel: str = ""

    @property
    def unit(self) -> str:
        """The unit in words, by the end of the key."""
        return _UNITS.get(self.key.rpartition("_")[2], "value")


@dataclass(frozen=True)
class Description:
    """What one probe records.

    Attributes:
        key: name of the probe in the records.
        title: what it is about, in one line.
        section: heading on a dashboard.
        columns: its quantities, as a dashboard orders them.
        is_default: whether it is recorded unless switched off.
        is_bookkeeping: whether it is about the work of probing, and no measurement.
    """

    key: str
    title: str = ""
    section: str = ""
    columns: tuple[Column, ...] = ()
    is_default: bool = True
    is_bookkeeping: bool = False

    def column(self, key: str) -> Column:
        """The column of a key, by the rules for names where the probe's description lacks it."""
        matches = (column for column in self.columns if fnmatchcase(key, column.key))
        return next(matches, Column(key, is_setting=key.startswith("num_")))

    def extended(self, kinds: Mapping[str, Kind]) -> Description:
        """The description with the keys that it lacks."""
        lacking = [key for key in kinds if not any(fnmatchcase(key, column.key) for column in self.columns)]
        return replace(self, columns=(*self.columns, *(replace(self.column(key), kind=kinds[key]) for key in lacking)))

    def null_of(self, key: str, keys: Iterable[str]) -> str:
        """Which of ``keys`` chance gives instead of ``key``: ``hubness_null`` for ``image_hubness``; empty for none."""
        shared = key.partition("_")[2] + _NULL
        named = (self.column(key).null, key + _NULL, shared)
        return next((name for name in named if name in keys), "")

    @property
    def log_steps(self) -> bool:
        """Whether its interest is early in training, so that curves have a logarithmic axis of steps."""
        return self.section != "Training"

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self) | {"columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Description:
        """The description that ``to_json`` gave; raises some error of types, names or values for anything else."""
        return _of_types(cls(**entry | {"columns": tuple(_of_types(Column(**column)) for column in entry["columns"])}))


def _of_types(entry: T) -> T:
    """The same, or a TypeError for a part of another type than its default has."""
    for field in fields(entry):  # type: ignore[arg-type]
        value, kind = getattr(entry, field.name), str if field.default is MISSING else type(field.default)
        allowed = {"kind": value in get_args(Kind), "null_factor": isinstance(value, int | float)}
        if not allowed.get(field.name, isinstance(value, kind)):
            raise TypeError(f"{field.name} must be a {kind.__name__}, got {str(value)[:40]!r}")
    return entry


def quantities(keys: str, panel: str = "", **shared: Any) -> tuple[Column, ...]:
    """Columns alike but for their keys; ``x+`` stands for ``x`` and its null ``x_null``."""
    parts = (part for key in keys.split() for part in ((key[:-1], key[:-1] + _NULL) if key[-1] == "+" else (key,)))
    return tuple(Column(key, panel=panel, **shared) for key in parts)


def settings(keys: str) -> tuple[Column, ...]:
    """Columns that say how something was measured."""
    return quantities(keys, is_setting=True)
