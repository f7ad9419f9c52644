"""Reading run folders, and the folders of ``probediff probe`` below them, for a report."""

import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from probediff import files
from probediff.report.records import KINDS, ProbeRecords, drop_outdated, is_exact, read_records
from probediff.runs.folder import FINISHED, PROBED, RECORDS, SET_ASIDE, probed_folders
from probediff.runs.grouping import config_value, max_steps_of
from probediff.runs.listing import distinct_names, folders_below, has_records
from probediff.runs.lock import is_held

T = TypeVar("T")

_EXACT_GAUSSIAN = "exact-h=1"
#: What a report looks at first where a model was probed with several numbers of steps, as in *There and Back Again*.
_USUAL_NUM_STEPS = 100
#: Data sets that published figures exist for, by what their names have in common.
_PUBLISHED = {"cifar10": "CIFAR-10", "imagenet64": "ImageNet-64", "celeba": "LDM-CelebA"}


@dataclass(frozen=True)
class Run:
    """A run, or a model that was probed without being trained here.

    Attributes:
        name: how the report calls it.
        path: its folder.
        config: ``config.yaml``; empty where there is none.
        provenance: versions, commit and machine from the head of ``config.yaml``.
        own: the records that the report is about first.
        extra: what ``probediff probe`` wrote below it, and other numbers of steps of a model.
    """

    name: str
    path: Path
    config: dict[str, Any]
    provenance: dict[str, str]
    own: ProbeRecords
    extra: tuple[ProbeRecords, ...] = ()

    def of_kind(self, kind: str) -> list[ProbeRecords]:
        """Folders of one kind, by number of steps."""
        if kind == "own":
            return [self.own]
        return sorted((p for p in self.extra if p.kind == kind), key=lambda p: p.convention("num_steps") or 0)

    def like_own(self, kind: str) -> ProbeRecords | None:
        """The folder of ``kind`` with the number of steps of the run's own records, otherwise its first one.

        Of an exact denoiser none other than one that was made as the run's own records.
        """
        if is_exact(kind):
            return next((p for p in self.exact() if p.kind == kind), None)
        folders = self.of_kind(kind)
        num_steps = self.own.convention("num_steps")
        return next((p for p in folders if p.convention("num_steps") == num_steps), folders[0] if folders else None)

    def exact(self, *but: str) -> list[ProbeRecords]:
        """What exact denoisers recorded with the settings of the run's own records, ``but`` for some of them.

        Without the probes whose options are others than the run's.
        """
        return [p.without(p.other_options(self.own)) for p in self.comparable(*but)]

    def comparable(self, *but: str) -> list[ProbeRecords]:
        """The same with all their probes; first those that have the fewest of other options."""
        alike = (p for p in self.extra if p.is_exact and not p.differing_from(self.own).keys() - {*but})
        return sorted(alike, key=lambda p: len(p.other_options(self.own)))

    def analyses(self, name: str) -> list[Path]:
        """Files of that name which analyses of this run, or of a published model, left in its folders."""
        return sorted(path for path in self.path.rglob(name) if SET_ASIDE not in path.relative_to(self.path).parts)

    def exact_folder(self, file: Path) -> str:
        """Name of the exact denoiser's folder that an analysis lies in; empty for one of the run's network."""
        places = file.relative_to(self.path).parts[1:2]
        return next(filter(is_exact, places), "")

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to come; a model that is not trained here counts as finished."""
        return self.own.kind != "own" or any(record["probe"] == FINISHED for record in self.own.records)

    @property
    def max_steps(self) -> int | None:
        """The last step that the configuration asks for, None where it counts epochs."""
        return max_steps_of(self.config)

    @property
    def state(self) -> str:
        """Finished, or what is known of a run without an end."""
        if self.own.kind != "own":
            return "probed, not trained here"
        if self.is_finished:
            return "finished"
        written = datetime.fromtimestamp(self.own.folder.records_path.stat().st_mtime, UTC)
        held = is_held(self.path)
        state = "training or stopped" if held is None else "training" if held else "stopped"
        text = f"{state}; last record written {written:%Y-%m-%d %H:%M} UTC"
        if self.max_steps is not None and self.max_steps == self.own.last_step:
            text = "at its last step, without a record of its end"
        return text + ("; its last line is incomplete and does not count" if self.own.cut_short else "")

    @property
    def data_class(self) -> str | None:
        """Name of the data module, None without a configuration."""
        path = config_value(self.config, "data.class_path")
        return str(path).rpartition(".")[2] if path else None

    @property
    def data(self) -> str | None:
        """The data set that published figures exist for: CIFAR-10, ImageNet-64 or LDM-CelebA; None for any other."""
        named = f"{self.data_class or ''} {self.own.convention('model') or ''}".lower()
        squeezed = named.replace("-", "").replace("_", "")
        return next((name for part, name in _PUBLISHED.items() if part in squeezed), None)


def read_runs(paths: list[Path]) -> list[Run]:
    """Every run below the given folders.

    A folder with ``records.jsonl`` is a run; one with ``num_steps=*`` folders is a model that was probed; of any other
    folder all runs below it are read, except those inside ``probes/`` folders.

    Raises:
        ValueError: a folder that does not exist or holds no run, or records that cannot be read.
    """
    folders: dict[Path, None] = {}
    for path in (Path(p).expanduser() for p in paths):
        if not path.is_dir():
            raise ValueError(f"RUN must be a folder of a run, got {path}: no such folder")
        below = list(folders_below(path.resolve(), lambda folder: has_records(folder) or bool(probed_folders(folder))))
        if not below:
            raise ValueError(f"RUN must hold {RECORDS}, or folders that do, got {path}; did the run start?")
        folders |= dict.fromkeys(below)
    names = distinct_names(list(folders))
    return [_read_run(folder, names[folder]) for folder in folders]


def read_json(path: Path, kind: type[T]) -> T | None:
    """Content of a JSON file; None where there is none or, with a warning, where it is damaged."""
    if not path.is_file():
        return None
    try:
        content = files.read_json(path)
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is left out, for it cannot be read: {error}", stacklevel=2)
        return None
    if isinstance(content, kind):
        return content
    warnings.warn(f"{path} is left out: a {kind.__name__} was expected, got a {type(content).__name__}", stacklevel=2)
    return None


def _read_run(path: Path, name: str) -> Run:
    if has_records(path):
        own = read_records(path, "own")
        # A folder of `probediff probe` that is given by itself names its model in its conventions.
        if own.convention("model") or own.convention("denoiser"):
            own = replace(own, kind="model")
        kinds = sorted((path / PROBED).glob("*/"))
        extra = [drop_outdated(read_records(p, _kind_of(k)), own) for k in kinds for p in probed_folders(k)]
    else:
        own, *extra = sorted((read_records(p, "model") for p in probed_folders(path)), key=_is_usual, reverse=True)
    return Run(name, path, own.folder.config(), own.folder.provenance(), own, tuple(extra))


def _kind_of(folder: Path) -> str:
    if folder.name == _EXACT_GAUSSIAN:
        return "gaussian"
    return folder.name if folder.name in KINDS or is_exact(folder.name) else "model"


def _is_usual(records: ProbeRecords) -> tuple[bool, int]:
    num_steps = records.convention("num_steps") or 0
    return num_steps == _USUAL_NUM_STEPS, num_steps
