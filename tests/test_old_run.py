"""A run of the first version, commit ab251d7, goes on loading: it is replayed, gone on with, listed and reported."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from probediff.__main__ import main
from probediff.runs.folder import RunFolder
from probediff.runs.gaps import tell_redefined
from tests.conftest import close_to, finite

ROOT = Path(__file__).parents[1]
NUM_COMPARED = 38
#: Measured, not computed: they differ from run to run.
CLOCKED = {"timing", "training"}
#: What is computed otherwise now, and all that is recorded beside what was; everything else is replayed as it was.
REDEFINED = {
    "assignment_accuracy": {"hubs_pixel_variance"},
    "checkpoint_similarity": {"ssim"},
    "checkpoint_similarity_final": {"ssim"},
    "pixel_correlation": {"null"},
}
ADDED = {
    "assignment_accuracy": {
        *("hubs_squared_norm_per_value", "squared_norm_per_value"),
        *("hubs_squared_brightness", "squared_brightness", "captures_squared_brightness_spearman"),
        *("captures_pixel_variance_spearman", "captures_squared_norm_per_value_spearman"),
    },
    "latent_normality": {"plain_area_ratio", "plain_area_ratio_null"},
}


def records(folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Records by step and probe."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {(record["step"], record["probe"]): record for record in map(json.loads, lines)}


@pytest.fixture
def old_run(real_data: Path, tmp_path: Path) -> Path:
    """A copy of the run: 60 steps on the digits, probes at 0, 10, 30 and 60."""
    archive = real_data / "old_run" / "digits_at_ab251d7.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "digits"


def count_equal(printed: str) -> tuple[int, int]:
    """The two numbers of the last line that ``probediff probe`` prints."""
    match = re.search(r"(\d+) of (\d+) records have exactly the numbers that the run recorded", printed)
    assert match, printed
    return int(match[1]), int(match[2])


def probe(run: Path, out: Path, *options: str) -> None:
    """Replays the probes of a run."""
    assert main(["probe", str(run), "--out", str(out), "--device", "cpu", "--progress", "false", *options]) == 0


def test_probe_replays_it(old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another processor rounds a convolution otherwise, so all numbers agree to 1e-5, and to 1e-9 where nothing of a
    network is in them: at step 0, where its last layer is zero, and where stored samples are compared."""
    probe(old_run, tmp_path / "replayed")
    printed = capsys.readouterr().out
    equal, compared = count_equal(printed)
    # What is recorded since is no difference, and what is computed otherwise is named.
    assert "recorded now and not then: assignment_accuracy captures_pixel_variance_spearman, " in printed
    assert ", cpu_capability, definitions, deterministic, device" in printed
    for probe_name, keys in REDEFINED.items():
        assert all(f"{probe_name} {key} is " in printed for key in keys)
    assert "other conditions" not in printed
    before, after = records(old_run), records(tmp_path / "replayed" / "num_steps=0008")
    shared = {key for key in before if key[1] not in CLOCKED}
    assert shared <= after.keys()
    same = set()
    for key in shared:
        then, now = before[key]["values"], after[key]["values"]
        redefined = REDEFINED.get(key[1], set()) & then.keys()
        assert now.keys() - then.keys() <= ADDED.get(key[1], set())
        assert all(now[name] != then[name] for name in redefined)
        then, now = ({name: v[name] for name in then.keys() - redefined} for v in (then, now))
        assert finite(now) == close_to(then)
        if key[0] == 0 or key[1] == "checkpoint_similarity_final":
            assert finite(now) == pytest.approx(finite(then), rel=1e-9)
        if now == then:
            same.add(key)
    # The line that closes the run is none of a probe.
    assert (equal, compared) == (len(same - {(60, "run")}), NUM_COMPARED)


def test_resume_goes_on_and_replays_exactly(old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = records(old_run)
    config = ["--config", str(ROOT / "configs" / "digits.yaml"), "--config", str(old_run / "config.yaml")]
    steps = ["--trainer.max_steps=80", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
    assert main(["fit", *config, "--run_dir", str(old_run), "--resume", "auto", *steps]) == 0
    assert "step=00000060.ckpt" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="other definitions than an earlier version had of: assignment_accuracy hubs"):
        tell_redefined(RunFolder(old_run))
    after = records(old_run)
    kept = {key for key in before if not key[1].endswith(("_final", "run"))}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    # Of the small configurations it is a part now.
    new = {"denoiser_structure"}
    assert {name for step, name in after if step == 80} == {name for step, name in before if step == 60} | new
    assert (0, "checkpoint_similarity_final") in after
    # What this machine recorded it replays to the bit.
    probe(old_run, tmp_path / "replayed", "--checkpoints", "80")
    equal, compared = count_equal(capsys.readouterr().out)
    assert equal == compared == 9


def test_runs_and_report_show_it(old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(old_run.parent), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["step"], row["max_steps"]) == ("finished", 60, 60)
    assert main(["report", str(old_run), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "digits" in page
    assert (tmp_path / "report" / "tables" / "t1_correlation.csv").exists()
