"""Reading run folders, and the folders of ``probediff probe`` below them, for a report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from probediff.runs.folder import FINISHED, RunFolder
from probediff.runs.lock import is_held

#: Folders of ``probediff probe`` below a run; any other name is that of a model.
KINDS = ("replay", "final_samples", "gaussian", "images")
#: What a report prefers to look at first where a model was probed with several numbers of steps (P1: 100).
_USUAL_NUM_STEPS = 100
_NOT_RUNS = frozenset({"probes", "checkpoints", "samples", "pictures", "wandb", "figures", "tables"})


@dataclass(frozen=True)
class Probes:
    """One folder of records.

    Attributes:
        path: the folder; pictures and samples lie below it.
        kind: ``own`` for what a run recorded while it trained, otherwise one of ``KINDS`` or ``model``.
        records: in the order of writing.
        cut_short: whether the last line is incomplete, as a kill leaves it; it does not count.
    """

    path: Path
    kind: str
    records: tuple[dict[str, Any], ...]
    cut_short: bool = False

    @cached_property
    def _by_probe(self) -> dict[str, dict[int, dict[str, Any]]]:
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for record in self.records:
            found.setdefault(record["probe"], {})[record["step"]] = record
        return {probe: dict(sorted(by_step.items())) for probe, by_step in found.items()}

    def probe_names(self) -> list[str]:
        """Names of the probes that have records, in the order of their first one."""
        return list(self._by_probe)

    def values(self, probe: str) -> dict[int, dict[str, float]]:
        """Finite numbers of one probe by step, ascending; steps without any are left out."""
        kept = {
            step: {key: float(v) for key, v in record.get("values", {}).items() if isinstance(v, int | float)}
            for step, record in self._by_probe.get(probe, {}).items()
        }
        return {step: values for step, values in kept.items() if values}

    def series(self, probe: str, key: str) -> dict[int, float]:
        """One number of one probe by step, ascending."""
        return {step: values[key] for step, values in self.values(probe).items() if key in values}

    def errors(self, probe: str) -> dict[int, str]:
        """What the probe said where it had no result, by step."""
        return {step: r["error"] for step, r in self._by_probe.get(probe, {}).items() if r.get("error")}

    def conventions(self, probe: str | None = None) -> list[dict[str, Any]]:
        """The different conventions of a probe's records (of all records without ``probe``), in order."""
        found: list[dict[str, Any]] = []
        for record in self.records:
            conventions = record.get("conventions") or {}
            if probe in (None, record["probe"]) and "num_samples" in conventions and conventions not in found:
                found.append(conventions)
        return found

    def convention(self, key: str) -> Any:
        """One convention of the newest record that names it, None where no record does."""
        return next((c[key] for c in reversed(self.conventions()) if key in c), None)

    @property
    def last_step(self) -> int | None:
        """The last step with a record, None without records."""
        return max((record["step"] for record in self.records), default=None)

    def newest_picture(self, pattern: str) -> tuple[int, Path] | None:
        """Step and path of the last picture whose name after ``step=N.`` matches the glob ``pattern``."""
        found = sorted(self.path.glob(f"pictures/step=*.{pattern}"))
        return (step_of(found[-1]), found[-1]) if found else None


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
    own: Probes
    extra: tuple[Probes, ...] = ()

    def of_kind(self, kind: str) -> list[Probes]:
        """Folders of one kind, by number of steps."""
        if kind == "own":
            return [self.own]
        return sorted((p for p in self.extra if p.kind == kind), key=lambda p: p.convention("num_steps") or 0)

    def like_own(self, kind: str) -> Probes | None:
        """The folder of ``kind`` with the number of steps of the run's own records, otherwise its first one."""
        found = self.of_kind(kind)
        num_steps = self.own.convention("num_steps")
        return next((p for p in found if p.convention("num_steps") == num_steps), found[0] if found else None)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to come; a model that is not trained here counts as finished."""
        return self.own.kind != "own" or any(record["probe"] == FINISHED for record in self.own.records)

    @property
    def max_steps(self) -> int | None:
        """The last step that the configuration asks for, None where it counts epochs."""
        steps = config_value(self.config, "trainer.max_steps")
        return steps if isinstance(steps, int) and steps > 0 else None

    @property
    def state(self) -> str:
        """Finished, or what is known of a run without an end."""
        if self.own.kind != "own":
            return "probed, not trained here"
        if self.is_finished:
            return "finished"
        written = datetime.fromtimestamp((self.own.path / "records.jsonl").stat().st_mtime, UTC)
        held = is_held(self.own.path)
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
        known = {"cifar10": "CIFAR-10", "imagenet64": "ImageNet-64", "celeba": "LDM-CelebA"}
        squeezed = named.replace("-", "").replace("_", "")
        return next((name for part, name in known.items() if part in squeezed), None)


def step_of(path: Path) -> int:
    """The step in a file name ``step=00000100.…``."""
    return int(path.name.split(".")[0].removeprefix("step="))


def config_value(config: dict[str, Any], key: str) -> Any:
    """The value under a dotted key, None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


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
        found = _run_folders(path.resolve())
        if not found:
            raise ValueError(f"RUN must hold records.jsonl, or folders that do, got {path}; did the run start?")
        folders |= dict.fromkeys(found)
    names = _distinct_names(list(folders))
    return [_read_run(folder, names[folder]) for folder in folders]


def _run_folders(path: Path) -> list[Path]:
    if (path / "records.jsonl").is_file() or _step_folders(path):
        return [path]
    try:
        below = sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return [
        run
        for folder in below
        if folder.name not in _NOT_RUNS and not folder.name.startswith(".")
        for run in _run_folders(folder)
    ]


def _step_folders(path: Path) -> list[Path]:
    return sorted(file.parent for file in path.glob("num_steps=*/records.jsonl"))


def _distinct_names(folders: list[Path]) -> dict[Path, str]:
    """The last part of each path, with as many parts before it as it takes to tell all apart."""
    for depth in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = {folder: "/".join(folder.parts[-depth:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            break
    return names


def _read_run(path: Path, name: str) -> Run:
    if not (path / "records.jsonl").is_file():
        probed = sorted((_read_probes(p, "model") for p in _step_folders(path)), key=_is_usual, reverse=True)
        config, provenance = _read_config(probed[0].path)
        return Run(name, path, config, provenance, probed[0], tuple(probed[1:]))
    config, provenance = _read_config(path)
    own = _read_probes(path, "own")
    # A folder of `probediff probe` that is given by itself names its model in its conventions.
    if own.convention("model") or own.convention("denoiser"):
        own = Probes(path, "model", own.records, own.cut_short)
    extra = [
        _read_probes(folder, kind.name if kind.name in KINDS else "model")
        for kind in sorted((path / "probes").glob("*/"))
        for folder in _step_folders(kind)
    ]
    return Run(name, path, config, provenance, own, tuple(extra))


def _is_usual(probes: Probes) -> tuple[bool, int]:
    num_steps = probes.convention("num_steps") or 0
    return num_steps == _USUAL_NUM_STEPS, num_steps


def _read_probes(path: Path, kind: str) -> Probes:
    folder = RunFolder(path)
    try:
        records = folder.records()
        wrong = [r for r in records if not (isinstance(r, dict) and isinstance(r.get("step"), int) and "probe" in r)]
        if wrong:
            raise ValueError(f"a record needs 'step' and 'probe', got {str(wrong[0])[:80]}")
        with folder.records_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            cut_short = file.read() not in (b"", b"\n")
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder.records_path} cannot be read: {error}; is it a run of probediff?") from error
    return Probes(path, kind, tuple(records), cut_short)


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    file = path / "config.yaml"
    if not file.is_file():
        return {}, {}
    try:
        text = file.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    head = (line[2:].partition(": ") for line in text.splitlines() if line.startswith("# "))
    return config if isinstance(config, dict) else {}, {key: value for key, colon, value in head if colon}
