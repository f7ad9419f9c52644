"""How many of our own calls lie between a training hook and the network, and from there to the record line.

Whoever wants to know how a number came about reads along these two ways, so that they stay short.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from probediff.callbacks import InversionAngles, Probing
from probediff.denoisers.predictions import EpsModel
from probediff.runs.folder import RunFolder
from tests.conftest import Fit

ROOT = Path(__file__).parents[1]
HOOK = Probing.on_train_batch_end.__qualname__
EVENT = Probing._probe.__qualname__


def own_calls() -> list[str]:
    """Our functions on the stack, the innermost last."""
    names: list[str] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "probediff") or path.is_relative_to(ROOT / "callbacks"):
            names.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return names[::-1]


@pytest.fixture
def ways(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str, str], list[list[str]]]:
    """Trains with one probe; the ways from a function to a method, each a list of the calls on it."""

    def find(owner: type, method: str, start: str) -> list[list[str]]:
        original, stacks = getattr(owner, method), []

        def watch(self: Any, *arguments: Any) -> Any:
            stacks.append(own_calls())
            return original(self, *arguments)

        monkeypatch.setattr(owner, method, watch)
        fit([InversionAngles()])
        # The call of the method itself counts too.
        return [[*stack[stack.index(start) + 1 :], method] for stack in stacks if start in stack and HOOK in stack]

    return find


def test_from_the_hook_to_the_network(ways: Callable[[type, str, str], list[list[str]]]) -> None:
    """Event, pass, sampler, the model's pair of predictions, network; a method of inversion adds its own function."""
    every = ways(EpsModel, "forward", HOOK)
    sampling = [way for way in every if not any("invert" in name for name in way)]
    inversion = [way for way in every if way not in sampling]
    assert sampling and inversion
    assert max(map(len, sampling)) <= 5, sampling[0]
    assert max(map(len, inversion)) <= 7, inversion[0]


def test_from_the_pass_to_a_measure(ways: Callable[[type, str, str], list[list[str]]]) -> None:
    measured = ways(InversionAngles, "measure", EVENT)
    assert measured and max(map(len, measured)) <= 4, measured[0]


def test_from_the_pass_to_the_record_line(ways: Callable[[type, str, str], list[list[str]]]) -> None:
    written = ways(RunFolder, "append", EVENT)
    assert written and max(map(len, written)) <= 4, written[0]
