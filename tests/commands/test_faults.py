"""Faults, injected: what must go on goes on, what must stop says the cure, and what was written stays."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import probediff.runs.folder
import probediff.training.checkpoints
from probediff.callbacks import AssignmentAccuracy, ProbeSchedule
from probediff.commands.deaths import explain_death, is_dead_data_worker
from probediff.commands.fit import fit as fit_command
from probediff.data.base import ImageTensors
from probediff.exceptions import StoppedBySignalError
from probediff.features.networks import FeatureNetwork, Preprocessing, extract
from probediff.models.base import ProbeModel
from probediff.probing import PassSettings, ProbePass
from probediff.probing.shared_pass import Advance, PassRequest, run_pass
from probediff.runs.folder import RunFolder
from tests.conftest import all_probes

ROOT = Path(__file__).parents[2]
Fit = Callable[..., tuple[Any, L.Trainer]]


def fails_at_first(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    """``function`` that finds a full disk the first ``times`` times."""
    calls = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*args, **kwargs)

    return failing


def events(folder: RunFolder) -> set[int]:
    return {record["step"] for record in folder.records() if record["probe"] == "assignment_accuracy"}


def test_records_survive_a_full_disk(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(RunFolder, "append", fails_at_first(RunFolder.append, 2))
    with pytest.warns(UserWarning, match=r"records could not be written .*No space left.*Free some space"):
        _, trainer = fit([AssignmentAccuracy()], schedule=ProbeSchedule(steps=(2, 4)))
    assert trainer.global_step == 5
    assert events(folder) == {0, 2, 4, 5}
    steps = [record["step"] for record in folder.records()]
    assert steps == sorted(steps)


def test_a_failed_append_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path).create()
    folder.append({"step": 0, "probe": "a"})
    before = folder.records_path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(probediff.runs.folder.os, "fsync", fails_at_first(os.fsync, 1))
        folder.append({"step": 1, "probe": "a"})
    assert folder.records_path.read_bytes() == before


@pytest.mark.parametrize("what", ["save_samples", "save_picture", "save_arrays"])
def test_samples_and_pictures_survive_a_full_disk(
    what: str, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, what, fails_at_first(getattr(RunFolder, what), 1))
    with pytest.warns(UserWarning, match="could not be written .*No space left"):
        _, trainer = fit(all_probes())
    assert trainer.global_step == 5
    assert events(RunFolder(tmp_path / "run")) == {0, 2, 5}


def test_a_checkpoint_on_a_full_disk_is_left_out_whole(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_written(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="checkpoint .* could not be written"):
        patch.setattr(probediff.training.checkpoints.torch, "save", half_written)
        _, trainer = fit([AssignmentAccuracy()])
    assert trainer.global_step == 5
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert events(RunFolder(tmp_path / "run")) == {0, 2, 5}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_inside_a_probe_stops_between_its_batches(
    number: int, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations = []

    def pass_with_signal(
        model: ProbeModel, settings: PassSettings, request: PassRequest, advance: Advance
    ) -> ProbePass:
        def counting(part: str, done: int, total: int) -> None:
            if model.step == 2:
                evaluations.append((part, done))
                if done == 3:
                    os.kill(os.getpid(), number)
            advance(part, done, total)

        return run_pass(model, settings, request, counting)

    monkeypatch.setattr("probediff.callbacks.coordinator.run_pass", pass_with_signal)
    before = signal.getsignal(number)
    with pytest.raises(StoppedBySignalError, match=f"stopped by {signal.Signals(number).name}"):
        fit(all_probes())
    assert evaluations == [("pass", 1), ("pass", 2), ("pass", 3)]
    assert events(RunFolder(tmp_path / "run")) == {0}
    assert RunFolder(tmp_path / "run").checkpoint_path(2).exists()
    assert signal.getsignal(number) == before


def test_a_signal_waits_for_the_accumulated_gradients(fit: Fit, tmp_path: Path) -> None:
    class Interrupt(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedBySignalError, match="stopped by SIGTERM at step 2"):
        fit([Interrupt()], schedule=ProbeSchedule(), accumulate_grad_batches=3)
    checkpoint = torch.load(RunFolder(tmp_path / "run").checkpoint_path(2), weights_only=True)
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 6


class DyingTensors(ImageTensors):
    """A data set whose reading process dies at its tenth batch."""

    batches = 0

    def __getitems__(self, indices: Any) -> torch.Tensor:
        self.batches += 1
        if torch.utils.data.get_worker_info() is not None and self.batches == 10:
            os._exit(1)
        return super().__getitems__(indices)


def test_a_dead_data_worker_stops_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("probediff.data.base.ImageTensors", DyingTensors)
    arguments = ["--config", str(ROOT / "configs" / "digits.yaml"), "--data.num_workers=1", "--wandb.mode=disabled"]
    arguments += ["--network.channels=8", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    arguments += ["--probing.settings.num_samples=11", "--probing.settings.num_steps=2", "--trainer.accelerator=cpu"]
    assert fit_command([*arguments, "--run_dir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "a process that reads data died; try --data.num_workers 0" in error
    assert "--resume auto" in error
    assert 0 in events(RunFolder(tmp_path / "run"))


def test_a_feature_network_that_runs_out_of_memory_gets_smaller_batches() -> None:
    sizes = []

    class Hungry(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(x))
            return x.flatten(1)[:, :4]

    network = FeatureNetwork("hungry", Hungry(), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3))
    images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with pytest.warns(UserWarning, match=r"'hungry' ran out of memory at a batch of 8; trying 4") as caught:
        features = extract(network, images, batch_size=8)
    assert len(caught) == 2
    assert sizes == [2] * 5
    assert torch.equal(features, extract(network, images, batch_size=1))


def test_a_broken_connection_to_a_data_worker_is_its_death() -> None:
    """How it shows depends on the moment of the death."""
    compiled = compile("raise ConnectionResetError('reset by peer')", "site-packages/torch/utils/data/x.py", "exec")
    with pytest.raises(ConnectionResetError) as inside:
        exec(compiled)
    assert is_dead_data_worker(inside.value)
    assert not is_dead_data_worker(ConnectionResetError("reset by peer"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer"),
        torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1"),
    ],
)
def test_a_dead_partner_is_told_with_the_cure(error: RuntimeError, tmp_path: Path) -> None:
    words = str(explain_death(error, tmp_path))
    assert f"another process of the training died or does not answer; go on with --run_dir {tmp_path}" in words
    assert explain_death(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), tmp_path) is None
