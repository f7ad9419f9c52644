"""What a sweep shows: how far each trial is, read from its run folder, one display, and a table at the end."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from probediff.display.text import printable
from probediff.runs.folder import RunFolder
from probediff.runs.grouping import max_steps_of

State = Literal["waiting", "running", "finished", "failed", "stopped"]


@dataclass
class Standing:
    """How a trial stands.

    Attributes:
        name: name of the trial.
        folder: its run folder.
        state: ``stopped`` when it was asked to stop and can go on, ``failed`` when it ended by itself too early.
        reason: why it failed, in one line.
        max_steps: last training step, once the run's configuration says it; 0 where that counts epochs.
    """

    name: str
    folder: Path
    state: State = "waiting"
    reason: str = ""
    max_steps: int | None = None

    def step(self) -> int:
        """Training step of the newest complete record; 0 before there is one."""
        return RunFolder(self.folder).last_recorded_step()

    def share(self) -> float:
        """Share of the training that is done, 0..1."""
        if self.state == "finished":
            return 1.0
        if self.max_steps is None and RunFolder(self.folder).config_path.exists():
            with suppress(ValueError):  # it is just being written
                self.max_steps = max_steps_of(RunFolder(self.folder).config()) or 0
        return min(1.0, self.step() / self.max_steps) if self.max_steps else 0.0


class SweepDisplay:
    """One bar for the whole sweep on a terminal; elsewhere one line for each change."""

    def __init__(self, name: str, standings: Sequence[Standing]) -> None:
        self._standings = standings
        shown = "{l_bar}{bar}| {n:.1f}/{total} trials [{elapsed}<{remaining}{postfix}]"
        self._bar = tqdm(total=len(standings), desc=name, disable=None, bar_format=shown, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        if self._bar.disable:
            print(printable(text), flush=True)
        else:
            self._bar.write(printable(text))

    def update(self) -> None:
        """Read how far the trials are; nothing is read where no bar is shown."""
        if self._bar.disable:
            return
        self._bar.n = sum(standing.share() for standing in self._standings)
        running = [f"{s.name} at step {s.step()}" for s in self._standings if s.state == "running"]
        failed = sum(standing.state == "failed" for standing in self._standings)
        self._bar.set_postfix_str("; ".join([*running, *([f"{failed} failed"] if failed else [])]))


def summary(standings: Sequence[Standing]) -> str:
    """A table of all trials: state, step, and the run folder, or why it failed."""
    rows = [("trial", "state", "step", "")]
    rows += [(s.name, s.state, str(s.step()), printable(s.reason or str(s.folder))) for s in standings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {state:<{widths[1]}}  {step:>{widths[2]}}  {last}".rstrip()
        for name, state, step, last in rows
    ]
    return "\n".join(lines)
