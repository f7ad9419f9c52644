"""What ``whitening``, ``search-noise``, ``vary`` and ``edit`` left below a run, of one model, with damage left out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from probediff.report.records import EXACT
from probediff.report.sources import Run, read_json
from probediff.report.verdicts.rule import Number
from probediff.runs.definitions import DEFINITIONS, SSIM
from probediff.runs.folder import WHITENING
from probediff.runs.record import STANDARD_ERRORS

EDIT, SEARCH_NOISE, VARY = "edit.json", "search_noise.json", "vary.json"
#: From so many images on a standard error over images is one: Student's t has 2.26 for ten, where the rule has 2.09.
FEWEST_IMAGES = 10

#: Kind of the network that a run trained, or of a model that was probed without being trained here.
NETWORK = "own"

#: A number of each image.
Each = tuple[float, ...]


@dataclass(frozen=True)
class Results:
    """Results below one run.

    Attributes:
        run: the run.
        kind: of what model: ``NETWORK``, or the kind of an exact denoiser's folder.
    """

    run: Run
    kind: str

    @cached_property
    def whitening(self) -> dict[str, Any]:
        """Of several analyses that of the most iterations, then of the most fixed points; empty without one."""
        found = [v for path, v in self._read(WHITENING) if self._kind_of(path, v) == self.kind and self._is_of_end(v)]
        return max(found, key=_size_of_analysis, default={})

    @cached_property
    def searches(self) -> list[dict[str, Any]]:
        """Searches for noises; they belong to no model."""
        return [values for _, values in self._read(SEARCH_NOISE)]

    @cached_property
    def edits(self) -> dict[str, list[Each]]:
        """SSIM of the edits with the images: kind of noise -> by strength, one number an image."""
        every = [v for path, v in self._read(EDIT) if self._kind_of(path, v) == self.kind]
        found = [v for v in every if _has_ssim(v) and self._is_of_end(v)]
        best: dict[str, list[Each]] = {}
        for values in found:
            by_noise: dict[str, list[Each]] = {}
            for row in _rows(values.get("edits")):
                if each := means_of_rows(row.get("ssim_of_each")):
                    by_noise.setdefault(str(row.get("noise")), []).append(each)
            if _num_images(by_noise) > _num_images(best):
                best = by_noise
        return best

    @cached_property
    def variations(self) -> dict[tuple[str, str], dict[str, Each]]:
        """SSIM of variations with their targets: (loss of the search, digest of targets) -> kind of noise -> each."""
        found: dict[tuple[str, str], dict[str, Each]] = {}
        for _, values in self._read(VARY):
            noises = _object(values.get("noises"))
            key = str(noises.get("loss")), str(noises.get("images_sha256"))
            for model in _rows(values.get("models")) if _has_ssim(values) else ():
                each = {kind: means_of_rows(model.get(f"ssim_of_each_{kind}")) for kind in ("found", "random")}
                if self._is_model(model) and each["found"] and len(each["found"]) == len(each["random"]):
                    found[key] = each
        return found

    def damage(self, name: str) -> str:
        """Which files of this name cannot be read, in words; empty for none."""
        paths = (path for path in self.run.analyses(name) if read_json(path, dict) is None)
        damaged = [f"{self.run.name}/{path.relative_to(self.run.path)}" for path in paths]
        return f"{', '.join(damaged)} cannot be read" if damaged else ""

    def _read(self, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in self.run.analyses(name):
            values = read_json(path, dict)
            if values is not None:
                yield path, values

    def _kind_of(self, path: Path, values: dict[str, Any]) -> str:
        """Of what model a result is, by its folder; the Gaussian's may lie beside the network's."""
        folder = self.run.exact_folder(path)
        is_gaussian = not folder and _object(values.get("conventions")).get("denoiser") == "gaussian"
        return _kind_of_folder("gaussian" if is_gaussian else folder or NETWORK)

    def _is_model(self, model: dict[str, Any]) -> bool:
        """Whether a model of ``vary`` is meant: it is called ``<run> step <step>``, or ``<run> <exact denoiser>``."""
        name, of_run = str(model.get("model")), f"{self.run.path.name} "
        what = name.removeprefix(of_run)
        kind = NETWORK if what.startswith("step ") else _kind_of_folder(what)
        return name.startswith(of_run) and kind == self.kind and self._is_of_end(model)

    def _is_of_end(self, result: dict[str, Any]) -> bool:
        """Whether a result is not of an earlier checkpoint of the network, as far as it says."""
        step = finite(_object(result.get("conventions")).get("step"))
        is_trained_here = self.kind == NETWORK and self.run.own.kind == NETWORK
        return not is_trained_here or step in (None, self.run.own.last_step)


def _kind_of_folder(name: str) -> str:
    """A kind as reports call it: h = 1 of all images is the Gaussian."""
    return "gaussian" if name == f"{EXACT}h=1" else name


def analysed_kinds(run: Run) -> list[str]:
    """Exact denoisers below a run that were analysed or edited with, whether they were probed or not."""
    folders = (run.exact_folder(path) for name in (WHITENING, EDIT) for path in run.analyses(name))
    return list(dict.fromkeys(_kind_of_folder(folder) for folder in folders if folder))


def number_in(node: object, key: str) -> Number | None:
    """A number of a result with its standard error, wherever it stands: in ``standard_errors``, beside, or by N."""
    values = _object(node)
    value = finite(values.get(key))
    if value is None:
        return None
    errors = _object(values.get(STANDARD_ERRORS))
    error = finite(errors.get(key, values.get(f"{key}_standard_error")))
    error = None if error is not None and error < 0 else error
    spread, count = finite(values.get(f"{key}_std")), finite(values.get("num_samples"))
    if error is None and spread is not None and count:
        error = spread / math.sqrt(count)
    return Number(value, error)


def last_row(rows: object) -> dict[str, Any]:
    """The last object of a list; empty without one."""
    return next(reversed(list(_rows(rows))), {})


def row_named(rows: object, name: str) -> dict[str, Any]:
    """The object of a list with this name; empty without one."""
    return next((row for row in _rows(rows) if row.get("name") == name), {})


def paired(found: Sequence[float], others: Sequence[float]) -> tuple[Number, float]:
    """Mean of the first numbers with the standard error of their difference from the others, and the others' mean.

    Both are one number an image, of the same images; the error is that over images, None for fewer than two.
    """
    differences = [a - b for a, b in zip(found, others, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return Number(statistics.fmean(found), error), statistics.fmean(others)


def mean_over_rows(rows: Sequence[Each]) -> Each:
    """Each image's mean over rows of one length; empty for none, or rows that differ."""
    is_one_length = len({len(row) for row in rows}) == 1
    return tuple(map(statistics.fmean, zip(*rows, strict=True))) if is_one_length else ()


def means_of_rows(rows: object) -> Each:
    """The mean of each row of finite numbers, one row an image; empty for anything else."""
    if not isinstance(rows, list) or not rows:
        return ()
    numbers = [[finite(value) for value in row] if isinstance(row, list) else [] for row in rows]
    if not all(row and None not in row for row in numbers):
        return ()
    return tuple(statistics.fmean(value for value in row if value is not None) for row in numbers)


def finite(value: object) -> float | None:
    """A finite number as float; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return float(value) if is_number else None  # type: ignore[arg-type]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> Iterator[dict[str, Any]]:
    return (row for row in (value if isinstance(value, list) else ()) if isinstance(row, dict))


def _size_of_analysis(values: dict[str, Any]) -> tuple[float, float]:
    row, conventions = last_row(values.get("first_step")), _object(values.get("conventions"))
    return finite(row.get("iterations")) or 0.0, finite(conventions.get("num_fixed_points")) or 0.0


def _has_ssim(values: dict[str, Any]) -> bool:
    """Whether the SSIM of a result is defined as now."""
    return _object(_object(values.get("conventions")).get(DEFINITIONS)).get("ssim") == SSIM


def _num_images(by_noise: dict[str, list[Each]]) -> int:
    return max((len(each) for rows in by_noise.values() for each in rows), default=0)
