"""LightningModules of one's own: what is probed, what the folder says, and that it can be gone on with and replayed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from probediff.callbacks import InversionAngles, Probe, ProbeSchedule, Probing
from probediff.commands.probe import probe as probe_command
from probediff.files import read_checkpoint
from probediff.models import ProbeModel, load_checkpoint_model, wrap_network
from probediff.models.base import Weights
from probediff.probing import ProbePass, ProbeResult
from probediff.probing.replay import compare_with_run
from probediff.probing.run_config import begin_run
from probediff.probing.wiring import Wiring
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.conftest import Fit, tiny_settings
from tests.probing.own_modules import SHAPE, Manual, Plain, T


class NoiseMean(Probe):
    """A probe of one's own, which stands among the trainer's callbacks."""

    def __init__(self, factor: float = 1.0, enabled: bool = True) -> None:
        super().__init__(enabled)
        self.factor = factor

    def measure(self, event: ProbePass) -> ProbeResult:
        return ProbeResult({"mean": self.factor * event.noise.mean()})


class StopAt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step


@pytest.fixture(autouse=True)
def quick_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finds is tested elsewhere, and takes a second."""
    undecided = Wiring("undecided", "", "nobody has looked", 32, 420)
    monkeypatch.setattr("probediff.probing.wiring_watch.check_wiring", lambda model, images: undecided)


def load_afterwards(path: Path, weights: Weights, ema_rate: float | None) -> ProbeModel:
    module = Plain()
    module.load_state_dict(read_checkpoint(path)["state_dict"])
    return module.probe_model(weights, ema_rate)


def train(fit: Fit, module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> None:
    is_averaged = isinstance(module, Manual) or any(isinstance(c, EMAWeightAveraging) for c in callbacks)
    settings = tiny_settings(weights=options.pop("weights", "ema" if is_averaged else "raw"))
    probing = Probing(ProbeSchedule(every_n_steps=1), settings, False, options.pop("keep_full_checkpoints", None))
    fit(None, module, **({"max_steps": 3, "callbacks": [*callbacks, probing, InversionAngles()]} | options))  # type: ignore[arg-type]


def averages(run: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Raw and averaged weights of a layer at each step, from the checkpoints."""
    pairs = []
    for path in RunFolder(run).checkpoints().values():
        checkpoint = read_checkpoint(path)
        states = checkpoint["current_model_state"], checkpoint["state_dict"]
        raw, average = (state["network.input_blocks.0.0.weight"] for state in states)
        pairs.append((raw, average))
    return pairs


@pytest.mark.parametrize("is_first", [True, False])
def test_averages_of_lightning_are_probed_as_they_are_after_the_step(fit: Fit, tmp_path: Path, is_first: bool) -> None:
    averaging = EMAWeightAveraging(decay=0.9)
    probing = Probing(ProbeSchedule(every_n_steps=1), tiny_settings(), False)
    callbacks = [averaging, probing] if is_first else [probing, averaging]
    fit(None, Plain(), max_steps=3, callbacks=[*callbacks, InversionAngles()])  # type: ignore[arg-type]
    pairs = averages(tmp_path / "run")
    for (_, before), (raw, after) in itertools.pairwise(pairs[1:]):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * raw)
    for step in (0, 2, 3):
        probed = load_checkpoint_model(tmp_path / "run", step, trust=True)
        ends = [r for r in RunFolder(tmp_path / "run").records() if r["step"] == step and "weights_sha256" in r]
        assert {record["weights_sha256"] for record in ends} == {probed.digest}
        assert torch.equal(probed.eps_model.unet.input_blocks[0][0].weight, pairs[step][1])
        assert ends[0]["conventions"]["averaged_by"] == "WeightAveraging"


def test_raw_weights_stay_raw_at_the_end_where_lightning_puts_the_average_in_their_place(
    fit: Fit, tmp_path: Path
) -> None:
    callbacks = (EMAWeightAveraging(decay=0.9), StopAt(2))
    probing = Probing(ProbeSchedule(), tiny_settings(weights="raw"), False)
    fit(None, Plain(), max_steps=9, callbacks=[*callbacks, probing, InversionAngles()])  # type: ignore[arg-type]
    (_, _), (raw, average) = averages(tmp_path / "run")
    assert not torch.equal(raw, average)
    assert RunFolder(tmp_path / "run").is_finished()
    probed = load_checkpoint_model(tmp_path / "run", 2, weights="raw", trust=True)
    last = [r for r in RunFolder(tmp_path / "run").records() if r["step"] == 2 and "weights_sha256" in r]
    assert last[0]["weights_sha256"] == probed.digest


def test_a_run_goes_on_and_is_replayed_bit_for_bit(fit: Fit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(fit, Manual(), NoiseMean(factor=2.0))
    config = RunFolder(run).config()
    assert config["module"]["init_args"] == {"seed": 0, "learning_rate": 2e-3}
    assert config["inversion_angles"]["enabled"] and not config["whitening"]["enabled"]
    assert all("loss_mean" not in r["values"] for r in RunFolder(run).records() if r["probe"] == "training")
    with pytest.raises(ValueError, match="already holds a run"):
        train(fit, Manual(), NoiseMean(factor=2.0))
    fit_on = {"max_steps": 4}
    probing = Probing(ProbeSchedule(every_n_steps=1), tiny_settings(), False)
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=run, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[probing, InversionAngles(), NoiseMean(factor=2.0)], **fit_on,
    )  # fmt: skip
    from probediff.data import Digits

    with pytest.warns(UserWarning, match=r"changed from step 3 on: .*trainer.max_steps from 3 to 4"):
        trainer.fit(Manual(), datamodule=Digits(batch_size=16), ckpt_path=str(RunFolder(run).checkpoint_path(3)))
    assert RunFolder(run).complete_steps() == {0, 1, 2, 3, 4}
    options = ["--num_steps", "8", "--progress", "false", "--device", "cpu"]
    assert probe_command([str(run), *options, "--trust"]) == 0
    replayed = compare_with_run(RunFolder(run / "probes" / "replay" / "num_steps=0008"), run)
    assert replayed.compared == replayed.equal == 15 and not replayed.settings  # 5 steps: pass, angles and NoiseMean


def test_settings_of_the_run_have_to_stay(fit: Fit, tmp_path: Path) -> None:
    train(fit, Plain(), max_steps=1)
    with pytest.raises(ValueError, match=r"other settings.*\n.*probing.settings.num_samples: 17 there, 18 now"):
        probing = Probing(ProbeSchedule(every_n_steps=1), tiny_settings(num_samples=18, weights="raw"), False)
        trainer = L.Trainer(
            accelerator="cpu", default_root_dir=tmp_path / "run", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[probing, InversionAngles()], max_steps=2,
        )  # fmt: skip
        from probediff.data import Digits

        trainer.fit(
            Plain(), datamodule=Digits(batch_size=16), ckpt_path=str(tmp_path / "run/checkpoints/step=00000001.ckpt")
        )


def test_what_is_not_trusted_is_not_imported(fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(fit, Plain(), NoiseMean(), max_steps=1)
    assert probe_command([str(tmp_path / "run"), "--num_steps", "8"]) != 0
    assert "give --trust" in capsys.readouterr().err


def test_a_model_or_a_function_is_handed_over(fit: Fit, tmp_path: Path) -> None:
    module = Plain()
    given = wrap_network(module.network, NoiseSchedule.cosine(T), SHAPE, timestep_scale=1000 / T)
    schedule, settings = ProbeSchedule(every_n_steps=1), tiny_settings(weights="raw")
    probing = Probing(schedule, settings, False, model=given, loader=load_afterwards)
    fit(None, module, max_steps=1, callbacks=[probing, InversionAngles()])  # type: ignore[arg-type]
    folder = RunFolder(tmp_path / "run")
    assert folder.config()["module"]["function"]["class_path"].endswith("load_afterwards")
    assert {r["conventions"]["weights"] for r in folder.records() if r["probe"] == "pass"} == {"as given"}
    probed = load_checkpoint_model(tmp_path / "run", 1, trust=True)
    assert probed.digest == [r for r in folder.records() if "weights_sha256" in r][-1]["weights_sha256"]
    function = Probing(schedule, settings, False, model=module.probe_model)
    fit(None, module, max_steps=1, callbacks=[function, InversionAngles()], default_root_dir=tmp_path / "function")  # type: ignore[arg-type]


class Silent(Plain):
    """Its arguments are not saved in plain types."""

    def __init__(self, network: nn.Module) -> None:
        L.LightningModule.__init__(self)
        self.seed, self.network, self.schedule = 0, network, NoiseSchedule.cosine(T)
        self.hparams.update({"seed": 0, "learning_rate": 1e-3})


def test_a_folder_that_does_not_know_how_to_build_the_model_says_so(fit: Fit, tmp_path: Path) -> None:
    train(fit, Silent(Plain().network), max_steps=1)
    with pytest.raises(ValueError, match=r"does not know its argument network|does not know the arguments of Silent"):
        load_checkpoint_model(tmp_path / "run", trust=True)


class NoModel(Plain):
    probe_model = None  # type: ignore[assignment]


def test_a_module_without_a_model_says_what_it_needs(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"NoModel must have a method probe_model\(weights, ema_rate\)"):
        train(fit, NoModel())


def test_averages_that_are_none_are_told_of(fit: Fit) -> None:
    with pytest.warns(UserWarning, match=r"same weights for 'ema' and 'raw'.*weights='raw'"):
        train(fit, Plain(), weights="ema", max_steps=1)


def test_thinned_checkpoints_have_raw_and_averaged_weights(fit: Fit, tmp_path: Path) -> None:
    train(fit, Plain(), EMAWeightAveraging(decay=0.9), keep_full_checkpoints=1)
    checkpoint = read_checkpoint(RunFolder(tmp_path / "run").checkpoint_path(2))
    assert "optimizer_states" not in checkpoint
    for weights, state in (("raw", "current_model_state"), ("ema", "state_dict")):
        probed = load_checkpoint_model(tmp_path / "run", 2, weights, trust=True)  # type: ignore[arg-type]
        assert probed.conventions["stored_dtype"] == "float16"
        expected = checkpoint[state]["network.input_blocks.0.0.weight"].float()
        assert torch.equal(probed.eps_model.unet.input_blocks[0][0].weight, expected)
    assert not torch.equal(
        *(checkpoint[key]["network.input_blocks.0.0.weight"] for key in ("current_model_state", "state_dict"))
    )


def test_a_model_whose_images_are_not_clipped_is_not_clipped(fit: Fit) -> None:
    module = Plain()
    given = replace(module.probe_model("raw", None), clip=False)
    probing = Probing(ProbeSchedule(), tiny_settings(), False, model=given)
    with pytest.raises(ValueError, match=r"settings.clip must be False for a model that was wrapped with clip=False"):
        fit(None, module, max_steps=1, callbacks=[probing, InversionAngles()])  # type: ignore[arg-type]


def test_the_configuration_of_fit_stays_where_its_run_goes_on_by_other_means(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    text = "{network: {}, data: {}, model: {}}"  # of a version without checksums
    folder.config_path.write_text(text)
    begin_run(folder, {"module": {"unknown": "x"}}, step=3)
    assert folder.config_path.read_text() == text
