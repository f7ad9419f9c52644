"""What a loop of one's own may hand to ProbeRunner, and what it is told of the rest before anything is written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probediff.callbacks import AssignmentAccuracy, InversionAngles
from probediff.models import ProbeModel, wrap_network
from probediff.probing import ProbeRunner
from probediff.probing.processes import raise_together
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_settings

pytestmark = pytest.mark.filterwarnings("ignore:step .*wiring not checked")


class Pointwise(nn.Sequential):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.as_tensor(super().forward(x))


NETWORK = Pointwise(nn.Conv2d(1, 1, 1))


def model() -> ProbeModel:
    return wrap_network(NETWORK, NoiseSchedule.cosine(40), (1, 4, 4))


def runner(folder: Path, probes: Any = None, **options: Any) -> ProbeRunner:
    probes = [InversionAngles(), AssignmentAccuracy()] if probes is None else probes
    return ProbeRunner(folder, probes, tiny_settings(num_samples=2), progress=False, **options)


@pytest.mark.parametrize("step", [-1, 2.5, None, "3"])
def test_steps_that_are_none(step: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step must be a whole number from 0 on, got"), runner(tmp_path / "run") as r:
        r(step, model())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [np.int64(3), torch.tensor(3)])
def test_whole_numbers_of_others_are_steps(step: Any, tmp_path: Path) -> None:
    with runner(tmp_path) as r:
        r(step, model())
    assert RunFolder(tmp_path).complete_steps() == {3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": InversionAngles()}, "probes and loggers must be lists"),
        ({"probes": [InversionAngles]}, "probes must be objects such as InversionAngles"),
        ({"probes": [InversionAngles(), InversionAngles()]}, "probes must differ, got inversion_angles twice"),
        ({"real_images": np.zeros((2, 1, 4, 4))}, "real_images must be a tensor .* got ndarray"),
        ({"real_images": torch.zeros(2, 4, 4)}, r"real_images must be a tensor .* got a tensor \(2, 4, 4\)"),
        ({"config": {"data": Path("images")}}, r"config must hold plain types, got data=.*give str\(data\)"),
    ],
)
def test_what_it_cannot_take_is_one_error(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message), runner(tmp_path / "run", **options) as r:
        r(0, model())
    assert not RunFolder(tmp_path / "run").records()


def test_a_network_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be a ProbeModel, such as of wrap_network, got Pointwise"):
        runner(tmp_path)(0, NETWORK)  # type: ignore[arg-type]


def test_what_is_finished_stays_so(tmp_path: Path) -> None:
    with runner(tmp_path) as r:
        r(0, model())
        r.finish()
    with pytest.raises(ValueError, match=r"must not be called after finish, got step 1; .*resume=True"):
        r(1, model())
    assert [record["probe"] for record in RunFolder(tmp_path).records()].count("run") == 1


def test_a_run_goes_on_with_fewer_probes(tmp_path: Path) -> None:
    with runner(tmp_path) as r:
        r(0, model())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with runner(tmp_path, [InversionAngles()], resume=True, config={"note": 1}) as r:
            r(1, model())
    assert "assignment_accuracy.enabled from True to False" in "".join(str(warning.message) for warning in told)
    assert RunFolder(tmp_path).complete_steps() == {0, 1}


def test_an_error_of_a_shared_check_is_what_it_was() -> None:
    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        raise_together(fail)


def test_a_wiring_that_was_mended_is_looked_at_again(tmp_path: Path) -> None:
    for step, real_images in ((0, torch.full((32, 1, 4, 4), 3.0)), (1, torch.rand(32, 1, 4, 4) * 2 - 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with runner(tmp_path, real_images=real_images, resume=True) as r:
                r(step, model())
        assert (RunFolder(tmp_path).wiring()["verdict"] == "wrong") == (step == 0)
