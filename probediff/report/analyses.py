"""What ``probediff whitening`` left below the runs: of networks, and of exact denoisers to stand beside them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from probediff.report.groups import Comparison
from probediff.report.records import EXACT
from probediff.report.sources import Run, read_json
from probediff.runs.folder import WHITENING

#: What an analysis of an exact denoiser shares with that of a network which it stands beside.
_SHARED = (
    *("num_images", "num_fixed_points", "images_sha256", "timestep", "counts", "tolerance", "start", "ridge"),
    *("num_steps", "num_samples", "noise_seed", "convention", "clip", "schedule"),
)


@dataclass(frozen=True)
class Analysis:
    """One result of the command.

    Attributes:
        run: below which it lies.
        folder: its pictures and arrays lie here.
        values: what it found.
        exact: what the same analysis of exact denoisers found, by their names.
    """

    run: Run
    folder: Path
    values: dict[str, Any]
    exact: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def exact_folder(self) -> str:
        """Name of the exact denoiser's folder; empty for a network's analysis."""
        return self.run.exact_folder(self.folder)

    @property
    def name(self) -> str:
        """How the report calls it."""
        name = self.exact_folder or self.folder.name
        return self.run.name + ("" if name == "whitening" else f", {name}")

    @property
    def conventions(self) -> dict[str, Any]:
        """What it depends on; empty where a damaged file does not say it."""
        conventions = self.values.get("conventions")
        return conventions if isinstance(conventions, dict) else {}

    @property
    def bandwidth(self) -> float | None:
        """Of an exact denoiser of the family."""
        h = 1.0 if self.exact_folder == "gaussian" else self.conventions.get("bandwidth")
        return float(h) if isinstance(h, int | float) else None

    def is_like(self, network: "Analysis") -> bool:
        """Whether it was made as a network's was."""
        ours, theirs = self.conventions, network.conventions
        return theirs.get("denoiser") == "network" and all(ours.get(key) == theirs.get(key) for key in _SHARED)


def find_analyses(comparison: Comparison) -> Iterator[Analysis]:
    """The analyses of one run of each group, for those of all would be too many.

    Those of exact denoisers that were made as a network's are found with it; others by themselves.
    """
    for group in comparison.groups:
        files = ((run, run.analyses(WHITENING)) for run in group.runs)
        run, paths = next(((run, paths) for run, paths in files if paths), (group.runs[0], []))
        read = ((path.parent, read_json(path, dict)) for path in paths)
        found = [Analysis(run, folder, values) for folder, values in read if values is not None]
        networks = [analysis for analysis in found if not analysis.exact_folder]
        exact = sorted(
            (a for a in found if a.exact_folder), key=lambda a: (a.bandwidth is None, a.bandwidth or 0, a.name)
        )
        for network in networks:
            beside = {_member_name(other): other.values for other in exact if other.is_like(network)}
            yield Analysis(run, network.folder, network.values, beside)
        yield from (other for other in exact if not any(other.is_like(network) for network in networks))


def _member_name(exact: Analysis) -> str:
    return f"h = {exact.bandwidth:g}" if exact.bandwidth is not None else exact.exact_folder.removeprefix(EXACT)
