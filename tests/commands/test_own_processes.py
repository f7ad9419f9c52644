"""Two processes through a module of one's own, and through a plain loop, find what one finds."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import pytest
import torch

from probediff.callbacks import AssignmentAccuracy, InversionAngles, PixelCorrelation, ProbeSchedule, Probing
from probediff.data import Digits
from probediff.probing import ProbeRunner
from probediff.runs.folder import RunFolder
from tests.commands import forked
from tests.commands.test_processes import values
from tests.conftest import close_to, finite, tiny_settings
from tests.probing.own_modules import Manual


def train(arguments: Sequence[str]) -> int:
    """A training with Lightning into a folder."""
    probing = Probing(ProbeSchedule(steps=(2,)), tiny_settings(), False)
    devices = int(os.environ["WORLD_SIZE"])
    options = {
        name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    }
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=4,
        default_root_dir=arguments[0],
        use_distributed_sampler=False,
        callbacks=[probing, InversionAngles(), PixelCorrelation()],
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(Manual(learning_rate=1e-4), datamodule=Digits(batch_size=16))
    metrics = trainer.callback_metrics
    return 0 if math.isfinite(metrics["probe/inversion_angles/at_image_mean_deg"]) else 9


def loop(arguments: Sequence[str]) -> int:
    """A plain loop, whose processes have the same weights."""
    if (rank := int(os.environ["RANK"])) or os.environ["WORLD_SIZE"] != "1":
        torch.distributed.init_process_group("gloo", rank=rank)
    module = Manual()
    runner = ProbeRunner(arguments[0], [InversionAngles(), AssignmentAccuracy()], tiny_settings(), progress=False)
    with runner:
        for step in (0, 3):
            found = runner(step, module.wrap(module.network))
            with torch.no_grad():
                for parameter in module.network.parameters():
                    parameter.mul_(0.9)
    return 0 if "probe/assignment_accuracy/image_to_noise" in found else 9


@pytest.mark.parametrize("command", [train, loop])
def test_two_processes_find_what_one_finds(command: forked.Command, tmp_path: Path) -> None:
    for count in (1, 2):
        log = tmp_path / f"{count}.log"
        processes = forked.start_together([str(tmp_path / str(count))], log, count, command=command)
        assert [forked.wait(process) for process in processes] == [0] * count, log.read_text()
        assert RunFolder(tmp_path / str(count)).is_finished()
    one, two = (values(tmp_path / name) for name in ("1", "2"))
    assert one.keys() == two.keys() and len(one) > 4
    for key, expected in one.items():
        assert finite(two[key]) == close_to(expected), key


def test_all_processes_refuse_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    for expected in (0, 1):
        processes = forked.start_together([str(tmp_path / "run")], log := tmp_path / "log", 2, command=loop)
        assert [bool(forked.wait(process)) for process in processes] == [bool(expected)] * 2, log.read_text()
    assert log.read_text().count("folder must be without a run") >= 2  # the first one says of what error it comes
