"""Progress where nobody watches: at most a line a minute, however long the work."""

from __future__ import annotations

import io
import re
import sys

import pytest
from tqdm.std import tqdm

from probediff.display import progress
from probediff.display.progress import progress_bar


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize("num_steps", [20, 2000])
def test_a_log_gets_a_line_a_minute(num_steps: int, clock: Clock) -> None:
    file = io.StringIO()
    with progress_bar(desc="working", total=num_steps, file=file, leave=False) as bar:
        for step in range(num_steps):
            clock.now = 600 * (step + 1) / num_steps
            bar.set_description(f"part {step}")
            bar.reset(num_steps)
            bar.update(step - bar.n)
    lines = file.getvalue().splitlines()
    assert len(lines) == 10 and "\r" not in file.getvalue()
    assert re.match(rf"part {num_steps - 1}: +\d+%\| {num_steps - 1} of {num_steps} \[", lines[-1])


def test_what_is_iterated_counts_too(clock: Clock) -> None:
    file = io.StringIO()
    for _ in progress_bar(range(4), desc="listing", file=file):
        clock.now += 40
    written = [line.partition(" [")[0] for line in file.getvalue().splitlines()]
    assert written == ["listing:  50%| 2 of 4", "listing: 100%| 4 of 4"]
    assert list(progress_bar(iter("ab"), disable=True)) == ["a", "b"]


def test_a_terminal_shows_the_bar_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(total=3, file=io.StringIO()) as bar:
        assert isinstance(bar, tqdm) and not isinstance(bar, progress._Lines)
