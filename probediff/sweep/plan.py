"""The plan of a local sweep: which trials there are, settled once and kept in the sweep's folder."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probediff.files import write_json
from probediff.sweep.expand import Values, expand, trial_command
from probediff.sweep.file import SweepFile
from probediff.sweep.lineage import trial_name

PLAN = "plan.json"


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
    """

    folder: Path
    sweep: str
    trials: list[PlannedTrial]


def settle_plan(sweep: SweepFile, folder: Path) -> Plan:
    """The plan that ``folder`` keeps, or a new one, which it keeps from now on.

    Raises:
        ValueError: the folder's plan was made from another sweep file.
        OSError: the folder cannot be written to.
    """
    path = folder / PLAN
    # As JSON gives it back, so that both can be compared.
    made_from = json.loads(json.dumps(asdict(sweep), default=str))
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["made_from"] != made_from:
            differing = ", ".join(key for key in made_from if made_from[key] != kept["made_from"].get(key))
            raise ValueError(
                f"{path} was made from another version of the sweep file ({differing} differ); "
                "put the file back, or give another --folder"
            )
        return Plan(folder, sweep.name, [PlannedTrial(**trial) for trial in kept["trials"]])
    trials = _trials(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"made_from": made_from, "trials": [asdict(trial) for trial in trials]}
    write_json(path, content)
    return Plan(folder, sweep.name, trials)


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
