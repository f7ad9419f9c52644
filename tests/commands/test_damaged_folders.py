"""Commands on folders that are damaged, or made to do damage: they work, or one line says what to do."""

from __future__ import annotations

import io
import signal
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probediff.commands.fit import fit
from probediff.commands.inversions import inversions
from probediff.commands.probe import probe
from probediff.commands.report import report
from probediff.commands.runs import runs
from probediff.commands.whitening import whitening
from tests.commands.damage import copy_run, damages
from tests.conftest import ROOT, TINY_RUN

pytestmark = pytest.mark.filterwarnings("ignore")

_SECONDS = 60
_TEXT = ("config.yaml", "config.history.yaml", "records.jsonl", "catalogue.json", "data.json", "lineage.json")
_OTHER = ("process.lock", "checkpoints/step=00000004.ckpt", "samples/step=00000004.safetensors", "error.txt")
_STEP = "step=00000004.inversion_angles"
_OF_PROBES = (f"samples/{_STEP}.safetensors", f"pictures/{_STEP}.triangle.png")
_PROBED = ["--checkpoints=last", "--device=cpu", "--num_steps=2", "--settings.num_samples=11"]
_FEW = ["--num_images=80", "--num_fixed_points=80", "--iterations=1"]

Command = Callable[[list[str]], int]
#: Each with its arguments: RUN and OUT are folders.
LIGHT: dict[str, tuple[Command, list[str]]] = {
    "runs": (runs, ["RUN"]),
    "runs --json": (runs, ["RUN", "--json"]),
}
HEAVY: dict[str, tuple[Command, list[str]]] = {
    "report": (report, ["RUN", "--out=OUT"]),
    "probe": (probe, ["RUN", "--out=OUT", "--progress=false", *_PROBED]),
    "inversions": (inversions, ["RUN", "--out=OUT", "--methods", "ddim", *_PROBED]),
    "whitening": (
        whitening,
        ["RUN", "--out=OUT", *_PROBED, *_FEW],
    ),
    "fit": (fit, ["--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN, "--run_dir=RUN", "--resume=auto"]),
}


def outcome(command: Command, arguments: Sequence[str]) -> tuple[int, str, str]:
    """Exit status and what was printed; an error that no command may raise, or waiting, is raised."""

    def late(*_: Any) -> None:
        raise AssertionError(f"still at work after {_SECONDS} s")

    before, out, err = signal.signal(signal.SIGALRM, late), io.StringIO(), io.StringIO()
    signal.alarm(_SECONDS)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = command(list(arguments))
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, out.getvalue(), err.getvalue()


def check(name: str, run: Path, folder: Path, target: str, damage: tuple[str, Callable[[Path], None]]) -> None:
    command, arguments = (LIGHT | HEAVY)[name]
    damaged = copy_run(run, folder / "run")
    path = damaged / target
    path.touch()
    damage[1](path)
    words = [word.replace("RUN", str(damaged)).replace("OUT", str(folder / "out")) for word in arguments]
    status, out, err = outcome(command, words)
    for word in ("Traceback", "weights_only", "allow_pickle"):
        assert word not in out + err
    assert status in (0, 1, 2)
    if status:
        errors = [line for line in err.splitlines() if "error: " in line]
        assert len(errors) == 1, err
        assert len(errors[0].partition("error: ")[2]) > 10, err


def fuzz(names: Sequence[str], num_examples: int, run: Path, seeded: bool) -> None:
    checks = list(HealthCheck)

    @settings(max_examples=num_examples, deadline=None, database=None, suppress_health_check=checks, derandomize=seeded)
    @given(st.sampled_from(names), st.sampled_from((*_TEXT, *_TEXT, *_OTHER, *_OF_PROBES)), damages())
    def examples(name: str, target: str, damage: tuple[str, Callable[[Path], None]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(name, run, Path(folder), target, damage)
            except BaseException as error:
                error.add_note(f"{name} with {target}: {damage[0]}")
                raise

    examples()


def test_lists_of_damaged_runs(tiny_run: Path) -> None:
    fuzz(list(LIGHT), 60, tiny_run, seeded=True)


@pytest.fixture
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made of the records, but not drawn, which takes most of a report's time."""
    monkeypatch.setattr("probediff.report.page._write_figure", lambda figure, out: "data:,")


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("name", HEAVY)
def test_work_on_a_damaged_run(name: str, tiny_run: Path) -> None:
    fuzz([name], 5, tiny_run, seeded=True)


@pytest.mark.slow
@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("name", [*LIGHT, *HEAVY])
def test_many_damaged_runs(name: str, tiny_run: Path) -> None:
    fuzz([name], 400 if name in LIGHT else 80, tiny_run, seeded=False)
