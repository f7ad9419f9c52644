"""``sweeps/seeds.yaml``, shrunk to patches, run here: killed in the middle, started again, the same records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from probediff.commands.fit import fit
from probediff.commands.sweep import sweep
from probediff.runs.folder import RunFolder
from probediff.runs.lock import holder

ROOT = Path(__file__).parents[2]
SHRUNK = [
    *("--trainer.accelerator=cpu", "--trainer.max_steps=40", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--network.channels=8", "--network.num_res_blocks=1"),
    *("--model.num_train_timesteps=40", "--data.num_images=200", "--data.batch_size=8", "--wandb.mode=disabled"),
    *("--probing.schedule.steps=[10,20,30]", "--probing.settings.num_samples=17", "--probing.settings.num_steps=4"),
    *("--probing.progress=false",),
]
NAMES = [f"seed_everything={seed}" for seed in (0, 10, 42)]
#: What may differ between two runs: clocks.
CLOCKS = ("timing", "pass")


def shrunk_file(folder: Path) -> Path:
    """P1's seeds on patches with a tiny network."""
    text = (ROOT / "sweeps" / "seeds.yaml").read_text()
    extra = "".join(f"  - {option}\n" for option in SHRUNK)
    shrunk = text.replace("configs/cifar10.yaml\n  -", f"{ROOT}/configs/patches.yaml\n{extra}  -")
    assert shrunk.count("patches.yaml\n") == 1
    path = folder / "seeds.yaml"
    path.write_text(shrunk)
    return path


def comparable(folder: Path) -> list[dict[str, Any]]:
    records = [record for record in RunFolder(folder).records() if record["probe"] not in CLOCKS]
    for record in records:
        record.pop("seconds", None)
        record["values"].pop("steps_per_second", None)
    return records


# Eight trainings, five of which import everything; test_local.py and test_agent.py have the parts of it.
@pytest.mark.slow
def test_three_seeds_killed_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, out = shrunk_file(tmp_path), tmp_path / "out"
    options = [str(path), "--local", "--folder", str(out), "--num_parallel", "2"]
    code = "import sys; from probediff.commands.sweep import sweep; sys.exit(sweep(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(RunFolder(out / NAMES[1]).records()) < 8:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    for name in NAMES:
        if (found := holder(out / name)) is not None:
            os.killpg(found["process"], signal.SIGKILL)
    while any(holder(out / name) for name in NAMES):
        time.sleep(0.01)
    assert not all(RunFolder(out / name).is_finished() for name in NAMES[1:])

    assert sweep(options) == 0
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[:3] for line in table] == [[name, "finished", "40"] for name in NAMES]
    assert [bool(RunFolder(out / name).lineage()["continues"]) for name in NAMES] == [True, True, False]
    for seed, name in zip((0, 10, 42), NAMES, strict=True):
        alone = tmp_path / f"alone{seed}"
        config = ["--config", str(ROOT / "configs" / "patches.yaml"), *SHRUNK]
        assert fit([*config, f"--seed_everything={seed}", "--run_dir", str(alone)]) == 0
        assert comparable(out / name) == comparable(alone)
    assert comparable(out / NAMES[0]) != comparable(out / NAMES[1])
