"""The plan of a local sweep: which trials there are, settled once and kept in the sweep's folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from probediff.files import write_json
from probediff.sweep.expand import Values, expand, trial_command
from probediff.sweep.file import SweepFile
from probediff.sweep.lineage import trial_name

PLAN = "plan.json"
_CONFIGURATIONS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a plan.

    Attributes:
        name: name of its folder.
        values: the swept keys and their values.
        command: its command line.
    """

    name: str
    values: Values
    command: list[str]


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep.

    Attributes:
        folder: the sweep's folder; each trial has its run folder in it.
        sweep: id of the sweep.
        trials: in the order in which they start.
        made_from: the sweep file, and digests of the files that the trials are started with.
    """

    folder: Path
    sweep: str
    trials: list[PlannedTrial]
    made_from: dict[str, Any]

    def keep(self) -> None:
        """Write it into its folder, unless it is there already."""
        if not (self.folder / PLAN).exists():
            trials = [asdict(trial) for trial in self.trials]
            write_json(self.folder / PLAN, {"made_from": self.made_from, "trials": trials})


def settle_plan(sweep: SweepFile, folder: Path) -> Plan:
    """The plan that ``folder`` keeps, or a new one.

    Raises:
        ValueError: the folder's plan is damaged, or was made from another sweep file or other configurations.
    """
    path = folder / PLAN
    # As JSON gives it back, so that both can be compared.
    made_from = json.loads(json.dumps(asdict(sweep), default=str))
    if not path.exists():
        trials = _trials(sweep)
        return Plan(folder, sweep.name, trials, made_from | {"files": _digest_files(trials)})
    kept = _read(path)
    made_from["files"] = _digest_files(kept.trials)
    # Earlier versions did not record the files.
    before = {"files": made_from["files"]} | kept.made_from
    differing = [key for key in made_from if made_from[key] != before.get(key)]
    if "files" in differing:
        differing.remove("files")
        names = {**before["files"], **made_from["files"]}
        differing += [name for name in names if made_from["files"].get(name) != before["files"].get(name)]
    if differing:
        raise ValueError(
            f"{path} was made from another version of the sweep file or of a file that it names "
            f"({', '.join(differing)} differ); put it back, or give another --folder"
        )
    return replace(kept, sweep=sweep.name)


def _read(path: Path) -> Plan:
    try:
        if not path.is_file():
            raise TypeError("it is no file")
        content = json.loads(path.read_text(encoding="utf-8"))
        trials = [PlannedTrial(**trial) for trial in content["trials"]]
        if not (trials and isinstance(content["made_from"], dict) and all(map(_is_whole, trials))):
            raise TypeError("it needs trials, each with a name, values and a command")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} must hold the plan of a sweep, got a damaged file ({error}); restore it, or give another --folder"
        ) from error
    return Plan(path.parent, "", trials, content["made_from"])


def _is_whole(trial: PlannedTrial) -> bool:
    has_types = isinstance(trial.name, str) and isinstance(trial.values, dict) and isinstance(trial.command, list)
    return has_types and bool(trial.command) and all(isinstance(part, str) for part in trial.command)


def _digest_files(trials: Sequence[PlannedTrial]) -> dict[str, str]:
    """Digests of the files that command lines name, such as configurations."""
    names = dict.fromkeys(part.partition("=")[2] or part for trial in trials for part in trial.command)
    files = [name for name in names if Path(name).suffix in _CONFIGURATIONS and Path(name).is_file()]
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files}


def _trials(sweep: SweepFile) -> list[PlannedTrial]:
    """Trials with folders of their own, also where a value is listed twice."""
    seen: Counter[str] = Counter()
    trials = []
    for values in expand(sweep):
        name = trial_name(values)
        seen[name] += 1
        own = name if seen[name] == 1 else f"{name}-{seen[name]}"
        trials.append(PlannedTrial(own, values, trial_command(sweep, values)))
    return trials
