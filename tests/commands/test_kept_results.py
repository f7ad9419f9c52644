"""Every analysis: what is there is compared with what is asked, shown or refused, and never overwritten."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probediff.commands import edit, inversions, search_noise, vary, whitening
from probediff.models.source import OF_STATE_DICTS
from probediff.runs.conditions import CONDITIONS
from tests.commands.conftest import SAMPLING, SEARCH
from tests.commands.reading import read_files
from tests.runs.test_lock import other_process_in

#: Options that change no number.
WITHOUT_EFFECT = {"help", "config", "print_config", "batch_size", "device", "out", "num_shown", "save_statistics"}
#: Under which keys the others stand, where that is not their own name.
RECORDED_AS = {
    **dict.fromkeys(("model", "checkpoints", "weights", "ema_rate"), "weights_sha256"),
    **{"image": "images_sha256", "noises": "noises_sha256", "trust": "weights_sha256"},
    "centre": "centred",
    "methods": "name",
    "set": "options",
    "run": "source",
    "statistics": "source",
    "reference": "statistics_images_sha256",
    "iterations": "counts",
    "timestep": "timestep_share",
    "shown_timesteps": "shown_timestep_shares",
    "channels": "shape",
}


@dataclass(frozen=True)
class Analysis:
    """A command, its arguments, and how to make it another analysis.

    Attributes:
        module: of the command.
        arguments: but for ``--out``.
        file: of the results, in the folder.
        other: options that change a number.
        words: of the refusal that they meet.
        writer: what writes first at the end.
    """

    module: Any
    arguments: list[str]
    file: str
    other: list[str]
    words: str
    writer: str = "write_result"

    def __call__(self, out: Path, *options: str) -> int:
        command: Callable[[Sequence[str]], int] = getattr(self.module, self.module.__name__.rpartition(".")[2])
        return command([*self.arguments, "--out", str(out), *options])


def analyses(run: Path, digits: Path, searched: Path) -> dict[str, Analysis]:
    statistics = ["--run", str(run), "--ridge", "1e-2", *SEARCH]
    images = [str(digits / f"image{k}.png") for k in range(3)]
    few = ["--iterations", "1,2", "--num_samples", "5", "--num_fixed_points", "70", "--ridge", "0.01"]
    seed = ["--noise_seed", "7"]
    return {
        "inversions": Analysis(
            inversions,
            [str(run), "--methods", "fixed_point", "--num_samples", "4", "--num_steps", "8", "--device", "cpu"],
            "num_steps=0008/inversion_methods.json",
            ["--set", "fixed_point.iterations=2"],
            "fixed_point.iterations is 5 there and 2 now",
            "write_json",
        ),
        "whitening": Analysis(
            whitening,
            [str(run), *few, "--num_steps", "8", "--device", "cpu"],
            "whitening.json",
            ["--tolerance", "0.5"],
            "tolerance is 0.0 there and 0.5 now",
            "save_tensors",
        ),
        "search_noise": Analysis(
            search_noise,
            [*images, *statistics],
            "search_noise.json",
            ["--step_size", "0.5"],
            "step_size is 0.98 there and 0.5 now",
        ),
        "vary": Analysis(
            vary,
            [str(searched / "noises.safetensors"), f"gaussian:{run}", str(run), *SAMPLING],
            "vary.json",
            seed,
            "noise_seed is 420 there and 7 now",
        ),
        "edit": Analysis(
            edit,
            [*images, "--model", str(run), *statistics, *SAMPLING],
            "edit.json",
            seed,
            "noise_seed is 420 there and 7 now",
        ),
    }


#: They share the code; the first three by default.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vary", "edit")]
NAMES = ("inversions", "whitening", "search_noise", *SLOW)


@pytest.fixture(scope="module")
def finished(
    tiny_run: Path, digits: Path, searched: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Analysis, Path]]:
    """Each analysis with the folder that it made."""
    root = tmp_path_factory.mktemp("finished")
    made = {name: (one, root / name) for name, one in analyses(tiny_run, digits, searched).items()}
    for analysis, out in made.values():
        assert analysis(out) == 0
    return made


@pytest.fixture(params=NAMES)
def analysis(request: pytest.FixtureRequest, finished: dict[str, tuple[Analysis, Path]]) -> Analysis:
    return finished[request.param][0]


@pytest.fixture
def out(analysis: Analysis, finished: dict[str, tuple[Analysis, Path]], tmp_path: Path) -> Path:
    """A copy of its results."""
    (folder,) = (folder for one, folder in finished.values() if one is analysis)
    return shutil.copytree(folder, tmp_path / "out")


def change(out: Path, analysis: Analysis, change_settings: Callable[[dict[str, Any]], object]) -> None:
    """Change every set of conventions in the file."""
    content = json.loads((out / analysis.file).read_text())
    parts = content if isinstance(content, list) else [content["conventions"]]
    if isinstance(content, dict) and "models" in content:
        parts += [model["conventions"] for model in content["models"]]
    for part in parts:
        change_settings(part)
    (out / analysis.file).write_text(json.dumps(content))


def keys_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from keys_in(part)


def refuse_to_write(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_same_command_shows_what_is_there_and_computes_nothing(
    analysis: Analysis, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(out)
    monkeypatch.setattr(analysis.module, analysis.writer, refuse_to_write)
    assert analysis(out, "--batch_size", "3") == 0 if analysis.module is not search_noise else analysis(out) == 0
    printed = capsys.readouterr().out
    assert "there already" in printed and str(out) in printed
    assert len(printed.splitlines()) > 6
    assert read_files(out) == before


def test_other_settings_are_refused_before_any_work(
    analysis: Analysis, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(out)
    assert analysis(out, *analysis.other) == 1
    message = capsys.readouterr().err
    assert analysis.words in message
    assert f"give another --out, or remove {out / analysis.file}" in message
    assert read_files(out) == before


def test_other_weights_are_other_results(analysis: Analysis, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(out, analysis, lambda settings: settings.update(weights_sha256="0123"))
    before = read_files(out)
    assert analysis(out) == 1
    assert "weights_sha256 is 0123 there" in capsys.readouterr().err
    assert read_files(out) == before


def test_a_file_of_an_earlier_version_is_not_taken_for_the_same(
    analysis: Analysis, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(out, analysis, lambda settings: settings.pop("weights_sha256", None))
    assert analysis(out) == 1
    message = capsys.readouterr().err
    assert "was written by an earlier version, which did not record which weights" in message
    assert "give another --out, or remove" in message


def test_other_threads_are_said_and_do_not_count(
    analysis: Analysis, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(out, analysis, lambda settings: settings.update(num_threads=99) if "num_threads" in settings else None)
    assert analysis(out) == 0
    assert "num_threads was 99 there and is " in capsys.readouterr().out


def test_damaged_results_are_one_line(analysis: Analysis, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = out / analysis.file
    whole = json.loads(path.read_text())
    damaged: list[str] = [path.read_text()[:-20], json.dumps([] if isinstance(whole, dict) else {})]
    for place, other in enumerate(("text", {"a": 1})):  # anything in the place of something
        copy = json.loads(json.dumps(whole))
        row = copy[0] if isinstance(copy, list) else copy
        row[sorted(row)[-1 - place]] = other
        damaged.append(json.dumps(copy))
    for text in damaged:
        path.write_text(text)
        status, message = analysis(out), capsys.readouterr().err
        assert status in (0, 1)
        if status:
            assert len([line for line in message.splitlines() if "error:" in line]) == 1
            assert f"remove {path}" in message
    assert path.read_text() == damaged[-1]


def test_files_of_a_result_that_are_gone_or_others(
    analysis: Analysis, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*out.rglob("*.png"), *out.rglob("*.safetensors")]:
        content = path.read_bytes()
        for spoil in (lambda path: path.write_bytes(b"PNG"), Path.unlink):
            spoil(path)
            assert analysis(out) == 1
            assert f"{path} must hold results of this command, got a damaged file" in capsys.readouterr().err
        path.write_bytes(content)


def test_all_options_are_recorded_or_change_no_number(analysis: Analysis, out: Path) -> None:
    recorded = set(keys_in(json.loads((out / analysis.file).read_text())))
    actions = analysis.module.build_parser()._actions
    options = {action.dest.rpartition(".")[2] for action in actions if action.dest != "settings"}
    # A run says what a state dict does not, and refuses these options.
    asked = options - WITHOUT_EFFECT - set(OF_STATE_DICTS)
    assert not {name for name in asked if not recorded & {name, RECORDED_AS.get(name, name)}}
    conditions = set(CONDITIONS) - ({"batch_size"} - options)
    assert {*conditions, "weights_sha256"} <= recorded


def test_a_second_command_in_the_folder_is_refused(
    analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "held"
    with other_process_in(held) as pid:
        before = read_files(held)
        assert analysis(held) == 1
        assert f"process {pid} is at work in {held}; " in capsys.readouterr().err
        assert read_files(held) == before


def test_a_full_disk_at_the_end_is_one_line(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(analysis.module, analysis.writer, refuse_to_write)
        assert analysis(tmp_path / "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and "No space left on device" in lines[0] and "then start the same command again" in lines[0]
    assert not (tmp_path / "out" / analysis.file).exists()
    if analysis.module is whitening:
        batches = read_files(tmp_path / "out" / "partial")
        assert batches
        assert analysis(tmp_path / "out") == 0
        assert not (tmp_path / "out" / "partial").exists()


def test_ctrl_c_ends_with_130_and_what_to_do(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    work = {
        inversions: "compare",
        whitening: "analyse",
        search_noise: "search_with_progress",
        vary: "vary_noises",
        edit: "edit_images",
    }[analysis.module]
    monkeypatch.setattr(analysis.module, work, interrupt)
    assert analysis(tmp_path / "out") == 130
    message = capsys.readouterr().err
    assert "stopped; " in message and ("start it again" in message or "the same command goes on" in message)
    assert not (tmp_path / "out").exists()
