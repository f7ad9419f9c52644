"""Numbers of two definitions under one name are told apart wherever they could be taken for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probediff.commands.probe import probe
from probediff.probing.replay import compare_with_run
from probediff.report.groups import group_runs
from probediff.report.latents import correlation
from probediff.report.mapping import hubs, settling
from probediff.report.measured import values_by_step
from probediff.report.sources import read_runs
from probediff.runs.definitions import DEFINITIONS, EARLIER, definitions_of, find_redefined
from probediff.runs.folder import RunFolder
from probediff.runs.gaps import tell_redefined
from probediff.runs.summary import probe_tables

CHANGED = {
    ("assignment_accuracy", "hubs_pixel_variance"),
    ("checkpoint_similarity", "ssim"),
    ("checkpoint_similarity_final", "ssim"),
    ("pixel_correlation", "null"),
}
NEW = ("hubs_squared_norm", "squared_norm", "captures_")


def rewrite(folder: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    records = folder.records()
    for record in records:
        change(record)
    folder.records_path.write_text("".join(json.dumps(record) + "\n" for record in records))


def as_before(record: dict[str, Any]) -> None:
    """A record of the version before: other numbers, no words about them, no |x|²."""
    record["conventions"].pop(DEFINITIONS, None)
    record["values"] = {key: value for key, value in record["values"].items() if not key.startswith(NEW)}
    for probe_name, key in CHANGED:
        if record["probe"] == probe_name and key in record["values"]:
            record["values"][key] *= 0.5


@pytest.fixture
def old(tiny_run: Path, tmp_path: Path) -> RunFolder:
    folder = RunFolder(shutil.copytree(tiny_run, tmp_path / "old"))
    rewrite(folder, as_before)
    return folder


def test_records_say_how_what_was_changed_is_computed(tiny_run: Path) -> None:
    said = {
        (record["probe"], key): words
        for record in RunFolder(tiny_run).records()
        for key, words in record["conventions"].get(DEFINITIONS, {}).items()
    }
    assert said.keys() >= CHANGED
    assert all(definitions_of(probe_name)[key] == words for (probe_name, key), words in said.items())
    assert not any(find_redefined(record["probe"], record["conventions"]) for record in RunFolder(tiny_run).records())


def test_what_is_not_said_is_of_an_earlier_version() -> None:
    assert find_redefined("checkpoint_similarity_final", {}) == {"ssim": EARLIER}
    assert find_redefined("checkpoint_similarity", {DEFINITIONS: {"ssim": "of logarithms"}}) == {
        "ssim": "of logarithms"
    }
    assert find_redefined("pixel_correlation", {DEFINITIONS: "damaged"}) == {"null": EARLIER}
    assert find_redefined("inversion_angles", {}) == {}


def test_a_replay_compares_all_but_these_and_names_them(tiny_run: Path, old: RunFolder) -> None:
    found = compare_with_run(RunFolder(tiny_run), old.path)
    assert found.equal == found.compared > 20
    assert found.redefined.keys() == {" ".join(pair) for pair in CHANGED}
    words = "\n".join(found.in_words())
    assert (
        "not compared, for it is defined otherwise now: assignment_accuracy hubs_pixel_variance is mean over" in words
    )
    assert "checkpoint_similarity ssim is of intensities (x + 1) / 2 in [0, 1]" in words
    assert "assignment_accuracy squared_norm_per_value" in words
    # Any other difference is still one.
    rewrite(old, lambda record: record["values"].update(pixel_variance=3.0, cka=2.0))
    assert compare_with_run(RunFolder(tiny_run), old.path).equal < found.equal


def test_results_of_two_definitions_do_not_go_into_one_folder(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_run), "--checkpoints=0", "--device=cpu", "--progress=false", f"--out={tmp_path / 'out'}"]
    assert probe(command) == 0
    (made,) = (tmp_path / "out").iterdir()
    rewrite(RunFolder(made), as_before)
    before = (made / "records.jsonl").read_bytes()
    capsys.readouterr()
    assert probe(command) == 1
    error = capsys.readouterr().err
    assert "holds results of another definition: hubs_pixel_variance of assignment_accuracy is as an earlier" in error
    assert "give another --out, or remove" in error
    assert (made / "records.jsonl").read_bytes() == before


def test_a_run_that_goes_on_is_told(tiny_run: Path, old: RunFolder, recwarn: pytest.WarningsRecorder) -> None:
    tell_redefined(RunFolder(tiny_run))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"other definitions .* assignment_accuracy hubs_pixel_variance, .* null; "):
        tell_redefined(old)


def test_tables_and_figures_say_it(tiny_run: Path, old: RunFolder) -> None:
    assert "of another definition" not in probe_tables(RunFolder(tiny_run))
    assert "ssim of another definition at step 2, 4" in probe_tables(old)
    both = group_runs(read_runs([tiny_run, old.path]))
    (figure, *_), (table, *_) = settling(both).figures, hubs(both).tables
    assert "disagree on: " in figure.caption
    assert f"ssim: of intensities (x + 1) / 2 in [0, 1] ({tiny_run.name}), {EARLIER} (old)" in figure.caption
    assert "|x|² / D, nearest samples" in {row[0] for row in table.rows}
    assert table.caption.endswith("Of an earlier definition, in some records at least: hubs_pixel_variance.")
    (correlations,) = correlation(both).tables
    assert "Of an earlier definition, in some records at least: null." in correlations.caption
    by_step = values_by_step(both, "pixel_correlation", "name")
    assert by_step is not None
    assert "Of an earlier definition, in some records at least: null." in by_step.caption
    new = values_by_step(group_runs(read_runs([tiny_run])), "pixel_correlation", "name")
    assert new is not None
    assert "earlier definition" not in new.caption
