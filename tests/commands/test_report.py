"""The command, and keeping a page current."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from probediff.callbacks import AssignmentAccuracy, InversionAngles, PixelCorrelation
from probediff.commands import report as command
from probediff.commands.report import report
from probediff.report.watch import watch
from tests.report.synthetic import write_records, write_run
from tests.runs.test_lock import other_process_in

Fit = Callable[..., object]


def test_errors_are_one_line_with_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert report([str(tmp_path / "nowhere"), "--out", out]) == 1
    assert capsys.readouterr().err.startswith("probediff report: error: RUN must be a folder of a run, got")
    assert report([str(tmp_path), "--out", out]) == 1
    assert "did the run start?" in capsys.readouterr().err
    run = write_run(tmp_path / "run")
    assert report([str(run), "--out", str(run / "records.jsonl")]) == 1
    assert "--out must be a folder that can be written to" in capsys.readouterr().err
    (run / "records.jsonl").write_text("")
    assert report([str(run), "--out", out]) == 1
    assert "empty so far" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "--out", "x", "--watch", "0"], ["--out", "x"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        report(arguments)
    assert stopped.value.code == 2
    assert "usage: probediff report" in capsys.readouterr().err


def test_it_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", files=False, probes=("training",))
    assert report([str(run), "--out", str(tmp_path / "out")]) == 0
    assert f"The page: {tmp_path / 'out' / 'index.html'}" in capsys.readouterr().out


def test_watching_rebuilds_when_records_change_and_ends_with_the_run(tmp_path: Path) -> None:
    run, page = tmp_path / "run", tmp_path / "out" / "index.html"
    write_run(run, probes=("training", "my_own_probe"), steps=(0, 10), files=False, finished=False)
    pages: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds == 7
        pages.append(page.read_text())
        if len(pages) == 2:
            write_records(run, ("training", "my_own_probe"), (0, 10, 100), finished=False)
        elif len(pages) == 3:
            write_records(run, ("training", "my_own_probe"), (0, 10, 100, 1000))
        assert len(pages) < 5

    watch([run], tmp_path / "out", None, 7, sleep)
    assert len(pages) == 3
    assert pages[0] == pages[1] != pages[2]
    refresh = '<meta http-equiv="refresh" content="7">'
    assert all(refresh in text for text in pages)
    # The run has ended, so the page no longer reloads itself.
    assert refresh not in page.read_text()


def test_watching_outlives_a_folder_that_cannot_be_read_for_a_while(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, calls = tmp_path / "run", []
    write_run(run, probes=("training",), steps=(0, 10), files=False, finished=False)

    def sleep(_: float) -> None:
        calls.append(1)
        if len(calls) == 1:
            (run / "records.jsonl").write_text("not json\n")
        else:
            write_records(run, ("training",), (0, 10))

    watch([run], tmp_path / "out", None, 1, sleep)
    assert len(calls) == 2
    assert "not rebuilt" in capsys.readouterr().err


def test_ctrl_c_ends_watching_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", probes=("training",), files=False, finished=False)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("probediff.report.watch.signature", interrupted)
    assert report([str(run), "--out", str(tmp_path / "out"), "--watch"]) == 0
    assert (tmp_path / "out" / "index.html").exists()


def test_matplotlib_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert report([str(write_run(tmp_path / "run")), "--out", str(tmp_path / "out")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_another_page_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = write_run(tmp_path / "run", probes=("training",), files=False), tmp_path / "out" / "index.html"
    page.parent.mkdir()
    page.write_text("<p>mine</p>")
    assert report([str(run), "--out", str(page.parent)]) == 1
    assert "--out must be new or hold an earlier report" in capsys.readouterr().err
    assert page.read_text() == "<p>mine</p>"


def test_one_folder_belongs_to_one_report_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", probes=("training",), files=False)
    with other_process_in(tmp_path / "out") as pid:
        assert report([str(run), "--out", str(tmp_path / "out")]) == 1
    assert f"process {pid} is at work in {tmp_path / 'out'}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_run(fit: Fit, tmp_path: Path) -> None:
    fit([InversionAngles(num_shown=4), AssignmentAccuracy(num_hubs=4), PixelCorrelation()])
    config = "data:\n  class_path: probediff.data.Digits\nseed_everything: 0\n"
    (tmp_path / "run" / "config.yaml").write_text(config)
    assert report([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    names = {path.stem for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert {"f1_pictures_1", "f2_triangle", "f4_own_samples", "f5_assignment", "f6_rows_1", "f8_hubs_1"} <= names
