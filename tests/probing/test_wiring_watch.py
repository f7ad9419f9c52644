"""The wiring check beside the events of a run: made until it decides, kept in the folder, and shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from probediff.denoisers import GaussianDenoiser
from probediff.models import ProbeModel, wrap_network
from probediff.probing import ProbeRunner
from probediff.probing.afterwards import ProbeTask, probe_afterwards
from probediff.probing.probe import images_function
from probediff.probing.wiring_watch import WiringWatch
from probediff.report.groups import group_runs
from probediff.report.overview import overview
from probediff.report.sources import read_runs
from probediff.runs.folder import RunFolder
from probediff.runs.summary import describe_failures
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_settings

IMAGES = torch.tensor(load_digits().images).float()[:, None] / 8 - 1
NETWORK = GaussianDenoiser.fit(IMAGES, NoiseSchedule.linear(1000))
SETTINGS = tiny_settings(num_samples=2, num_steps=2)


def model(schedule: NoiseSchedule) -> ProbeModel:
    return wrap_network(NETWORK, schedule, (1, 8, 8))


def test_a_wrong_wiring_is_named_kept_and_shown(tmp_path: Path) -> None:
    runner = ProbeRunner(tmp_path / "run", [], SETTINGS, real_images=IMAGES, progress=False)
    with pytest.warns(UserWarning, match="step 0: wiring wrong: .*trained with the schedule linear, not cosine"):
        runner(0, model(NoiseSchedule.cosine(1000)))
    runner.finish()
    folder = RunFolder(tmp_path / "run")
    assert folder.wiring()["verdict"] == "wrong" and folder.wiring()["step"] == 0
    (line,) = describe_failures(folder)
    assert "trained with the schedule linear, not cosine" in line


@pytest.mark.filterwarnings("error")
def test_a_right_wiring_is_looked_at_once_and_stays_silent(tmp_path: Path) -> None:
    asked = []

    def real_images(count: int) -> torch.Tensor:
        asked.append(count)
        return IMAGES[:count]

    watch = WiringWatch(RunFolder(tmp_path), real_images)
    for step in (0, 10):
        watch.look(replace(model(NoiseSchedule.linear(1000)), step=step))
    assert len(asked) == 1
    assert RunFolder(tmp_path).wiring()["verdict"] == "right"
    # A run that goes on may be wired anew.
    WiringWatch(RunFolder(tmp_path), real_images).look(model(NoiseSchedule.linear(1000)))
    assert len(asked) == 2


def test_what_cannot_be_checked_is_said_once(tmp_path: Path) -> None:
    watch = WiringWatch(RunFolder(tmp_path), None)
    with pytest.warns(UserWarning, match="wiring not checked: .*real_images must be given") as told:
        for _ in range(2):
            watch.look(model(NoiseSchedule.linear(1000)))
    assert len(told) == 1
    assert RunFolder(tmp_path).wiring()["verdict"] == "undecided"


def test_what_is_undecided_is_looked_at_again_when_the_training_is_twice_as_far(tmp_path: Path) -> None:
    asked = []

    def too_few(count: int) -> torch.Tensor:
        asked.append(None)
        return IMAGES[:3]

    watch = WiringWatch(RunFolder(tmp_path), too_few)
    looked = []
    for step in range(10):
        before = len(asked)
        watch.look(replace(model(NoiseSchedule.linear(1000)), step=step))
        looked += [step] * (len(asked) - before)
    assert looked == [0, 1, 2, 4, 8]


def test_probes_that_run_afterwards_name_it_too_and_the_report_says_it(tmp_path: Path) -> None:
    wrong = model(NoiseSchedule.cosine(1000))
    folder = RunFolder(tmp_path / "probed")
    real_images = images_function(IMAGES)
    options = {"real_images": real_images, "config_text": "probing: {}", "checks_wiring": True}
    task = ProbeTask(folder, SETTINGS, [0], lambda step: wrong, **options)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="step 0: wiring wrong"):
        probe_afterwards(task, [], torch.device("cpu"), progress=False)
    assert folder.wiring()["verdict"] == "wrong"
    text = " ".join(overview(group_runs(read_runs([tmp_path / "probed"]))).text)
    assert "trained with the schedule linear, not cosine" in text
