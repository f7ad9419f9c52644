"""Any value of any option: the command begins its work, or says in one line what it needs; it never breaks or hangs."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probediff.__main__ import COMMANDS, main
from probediff.commands import compare, edit, fit, inversions, prepare, probe, search_noise, sweep, vary, whitening
from probediff.commands.starting import Start
from probediff.prepare import images
from probediff.probing import afterwards
from probediff.sweep.runner import LocalSweep
from tests.conftest import ROOT, TINY_RUN

assert prepare and probe and sweep and fit  # imported before the clock of an example runs

#: Where the work of the commands begins; everything before it are their checks.
WORK = [
    *((Start, "begin"), (afterwards, "run_pass"), (inversions, "compare"), (whitening, "analyse")),
    *((vary, "vary_noises"), (search_noise, "search_with_progress"), (edit, "search_with_progress")),
    *((edit, "edit_images"), (images, "_write_all"), (LocalSweep, "run"), (compare, "make_missing")),
]
#: Processes of other machines are waited for, as they should be; and a view is written over the network.
LEFT_OUT = {"--help", "--print_config", "--trainer.num_nodes", "--version"}
NASTY = [
    *("", "0", "-1", "1000000000000", "nan", ".nan", "inf", ".inf", "-.inf", "1.5", "xyz", "[", "{", "[1]", "[]", "{}"),
    *("null", "true", "${oc.env:HOME}", "${", "${no.key}", "é", "a=b", "1,2", "(1,2)", "--", "/proc/x", "$MISSING"),
    *("$FOLDER", "$FILE", "$IMAGES"),
]
CURE = re.compile(
    r"must|needs|--\w|, got|not there|belong|exclude|cannot be (read|imported)|pip install|unrecognized|choose"
)


class WorkBegins(BaseException):
    """The checks are over, and nothing was wrong."""


@cache
def options_of(command: str) -> list[str]:
    """All options, as the help shows them."""
    before = ["imagenet64"] if command == "prepare" else []
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) if command != "probe" else redirect_stderr(printed):
        main([command, *before, "--help"])
    return sorted({*re.findall(r"^ +(--[\w.]+)", printed.getvalue(), re.MULTILINE)} - LEFT_OUT)


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """What hangs fails."""

    def stop(*_: object) -> None:
        raise TimeoutError("the command does not end")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def call(
    tiny_run: Path, searched: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, list[tuple[str, str]]], None]:
    """Call a command with options and check how it ends."""
    run, noises, pictures = str(tiny_run), str(searched / "noises.safetensors"), str(digits)
    config, work = str(ROOT / "configs" / "digits.yaml"), tmp_path / "work"
    calls = {
        "fit": ["--config", config, *TINY_RUN, "--run_dir", "new"],
        "probe": [run, "--num_steps", "4", "--out", "probed"],
        "compare": [run, "--denoisers", "h=0.4,nearest", "--images", "20", "--out", "compared"],
        "inversions": [run, "--num_steps", "4", "--out", "inverted", "--settings.num_samples", "4"],
        "whitening": [run, "--ridge", "1e-2", "--num_steps", "4", "--out", "whitened"],
        "search-noise": [pictures, "--run", run, "--ridge", "1e-2", "--out", "found"],
        "vary": [noises, run, "--num_steps", "4", "--out", "varied"],
        "edit": [pictures, "--model", run, "--run", run, "--ridge", "1e-2", "--num_steps", "4", "--out", "edited"],
        "report": [run, "--out", "page"],
        "verdicts": [run],
        "sweep": [str(ROOT / "sweeps" / "smoke.yaml"), "--local"],
        "runs": [run],
        "dashboard": ["team/project", "--dry_run"],
        "prepare": ["imagenet64", pictures, "prepared", "--image_size", "8"],
    }
    for name in ("work", "home", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("text")
    places = {"$MISSING": "missing", "$FOLDER": "folder", "$FILE": "file"}
    values = {name: str(tmp_path / place) for name, place in places.items()} | {"$IMAGES": pictures}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(work)

    def begin(*_: Any, **__: Any) -> None:
        raise WorkBegins

    for owner, name in WORK:
        monkeypatch.setattr(owner, name, begin)

    def check(command: str, chosen: list[tuple[str, str]]) -> None:
        given = [part for option, value in chosen for part in (option, values.get(value, value))]
        printed, status = io.StringIO(), None
        with redirect_stdout(io.StringIO()), redirect_stderr(printed), alarm(120):
            try:
                status = main([command, *calls[command], *given])
            except WorkBegins:
                return
            except SystemExit as stop:
                status = stop.code
        errors = printed.getvalue()
        assert "Traceback" not in errors and "weights_only" not in errors, errors
        if status != 0:
            *_, last = (line for line in errors.splitlines() if "error: " in line or "needs" in line)
            assert status in (1, 2) and CURE.search(last), (status, errors)

    return check


def examples(command: str, data: st.DataObject) -> list[tuple[str, str]]:
    pairs = st.tuples(st.sampled_from(options_of(command) or ["--json"]), st.sampled_from(NASTY))
    return data.draw(st.lists(pairs, min_size=1, max_size=2))


def fuzz(max_examples: int, derandomize: bool = False) -> Any:
    ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=max_examples, deadline=None, suppress_health_check=ignored, derandomize=derandomize, database=None
    )


@pytest.mark.parametrize("command", COMMANDS)
@fuzz(3, derandomize=True)
@given(data=st.data())
def test_any_option(command: str, data: st.DataObject, call: Callable[[str, list[tuple[str, str]]], None]) -> None:
    call(command, examples(command, data))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@fuzz(int(os.environ.get("PROBEDIFF_FUZZ", "100")))
@given(data=st.data())
def test_any_option_of_many(
    command: str, data: st.DataObject, call: Callable[[str, list[tuple[str, str]]], None]
) -> None:
    call(command, examples(command, data))
