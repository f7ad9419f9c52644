"""Models of a run are bitwise the run's own; what is broken or missing is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from probediff.data import Digits
from probediff.denoisers import UNet
from probediff.models import load_checkpoint_model, load_run_data
from probediff.runs.folder import RunFolder
from probediff.training.checkpoints import keep_weights_only, load_checkpoint
from probediff.training.module import DiffusionModule
from tests.models.tiny_run import change_config, checkpoint, eps_of


def trained_module(path: Path) -> DiffusionModule:
    """The module of FIT, spelled out, with the weights of a checkpoint."""
    network = UNet(8, 1, 2, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,), num_heads=2)
    module = DiffusionModule(network, num_train_timesteps=40, ema_rates=[0.9, 0.5])
    state = torch.load(path, weights_only=True)["state_dict"]
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module.eval()


@pytest.mark.parametrize(
    ("weights", "ema_rate", "recorded"), [("ema", None, 0.9), ("ema", 0.5, 0.5), ("ema", 0.9, 0.9), ("raw", None, None)]
)
@pytest.mark.parametrize("step", [0, 2, 4])
def test_bitwise_the_model_that_the_run_probed(
    finished: Path, step: int, weights: Any, ema_rate: float | None, recorded: float | None
) -> None:
    before = torch.get_rng_state()
    model = load_checkpoint_model(finished, step, weights, ema_rate)
    assert torch.equal(torch.get_rng_state(), before)
    module = trained_module(checkpoint(finished, step))
    assert torch.equal(eps_of(model.eps_model), eps_of(module.probe_model(weights, ema_rate).eps_model))
    assert torch.equal(model.schedule.alpha_bar, module.schedule.alpha_bar)
    assert (model.step, model.image_shape, model.clip, model.decode) == (step, (1, 8, 8), True, None)
    assert model.conventions["ema_rate"] == recorded
    assert not model.eps_model.training
    assert not any(parameter.requires_grad for parameter in model.eps_model.parameters())


def test_averages_and_steps_differ(finished: Path) -> None:
    chosen = [(4, "ema", None), (4, "ema", 0.5), (4, "raw", None), (2, "ema", None)]
    found = [eps_of(load_checkpoint_model(finished, *choice).eps_model) for choice in chosen]
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_conventions_are_those_of_the_runs_records(finished: Path) -> None:
    recorded = [r["conventions"] for r in RunFolder(finished).records() if r["probe"] == "timing"]
    found = load_checkpoint_model(finished).conventions
    assert list(found) == ["ema_rate", "schedule", "num_train_timesteps", "image_shape", "dtype"]
    assert recorded
    assert all(conventions | found == conventions for conventions in recorded)


def test_a_file_and_the_newest(finished: Path) -> None:
    assert list(RunFolder(finished).checkpoints()) == [0, 2, 4]
    assert RunFolder(finished / "absent").checkpoints() == {}
    expected = eps_of(load_checkpoint_model(finished, 4).eps_model)
    for path in (finished, checkpoint(finished), str(checkpoint(finished))):
        assert torch.equal(eps_of(load_checkpoint_model(path).eps_model), expected)


def test_thinned_checkpoints(run: Path) -> None:
    keep_weights_only(checkpoint(run))
    model = load_checkpoint_model(run)
    assert model.step == 4
    assert model.conventions["stored_dtype"] == "float16"
    assert model.conventions["dtype"] == "float32"
    assert torch.equal(eps_of(model.eps_model), eps_of(trained_module(checkpoint(run)).probe_model().eps_model))


def test_double_precision_is_kept(run: Path) -> None:
    content = torch.load(checkpoint(run), weights_only=True)
    content["state_dict"] = {name: tensor.double() for name, tensor in content["state_dict"].items()}
    torch.save(content, checkpoint(run))
    model = load_checkpoint_model(run)
    assert model.conventions["dtype"] == "float64"
    assert "stored_dtype" not in model.conventions


def test_a_run_without_its_data_or_without_records(run: Path) -> None:
    data = {"class_path": "probediff.data.PreparedImages", "init_args": {"path": str(run / "gone")}}
    change_config(run, data=data)
    assert load_checkpoint_model(run).image_shape == (1, 8, 8)
    with pytest.raises(FileNotFoundError, match="gone"):
        load_run_data(run)
    (run / "records.jsonl").unlink()
    assert load_checkpoint_model(run).image_shape == (1, 8, 8)
    (run / "data.json").unlink()
    with pytest.raises(FileNotFoundError, match="gone"):
        load_checkpoint_model(run)
    change_config(run, data={"class_path": "probediff.data.Digits", "init_args": {}})
    assert load_checkpoint_model(run).image_shape == (1, 8, 8)


def test_broken_checkpoints_are_passed_over(run: Path) -> None:
    checkpoint(run).write_bytes(checkpoint(run).read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"passing over a checkpoint: .*step=00000004.ckpt cannot be read"):
        assert load_checkpoint_model(run).step == 2
    with pytest.raises(ValueError, match=r"step=00000004.ckpt cannot be read"):
        load_checkpoint_model(run, 4)
    for step in (0, 2):
        torch.save({"state_dict": {}, "global_step": step}, checkpoint(run, step))
    with (
        pytest.warns(UserWarning, match="passing over"),
        pytest.raises(ValueError, match=r"none of the 3 checkpoints loads; the oldest one: .*step=00000000"),
    ):
        load_checkpoint_model(run)


def test_wrong_checkpoints(run: Path) -> None:
    path = checkpoint(run)
    content = torch.load(path, weights_only=True)
    torch.save({"epoch": 1}, path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of .*got a file without state_dict, global_step"):
        load_checkpoint_model(path)
    content["state_dict"].pop("ema.models.1.unet.out.2.bias")
    torch.save(content, path)
    load_checkpoint_model(path)
    with pytest.raises(ValueError, match=r"must hold in ema.models.1.\* .*got 1 differences: missing unet.out.2.bias"):
        load_checkpoint_model(path, ema_rate=0.5)
    change_config(run, network={"channels": 8, "channel_mult": [1, 2], "num_res_blocks": 2, "num_heads": 2})
    with pytest.raises(ValueError, match=r"attention_resolutions must be among"):
        load_checkpoint_model(path)
    change_config(run, network={"channels": 8, "channel_mult": [1, 2], "heads": 2})
    with pytest.raises(ValueError, match=r"network of .*config.yaml must be arguments of UNet .*, got 'heads'"):
        load_checkpoint_model(path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"channels": 16}, r"network.channels must be 8 for these tensors, got 16"),
        ({"channel_mult": [1, 3]}, r"network.channel_mult must be \[1, 2\] for these tensors, got \[1, 3\]"),
        ({"num_res_blocks": 2}, r"network.num_res_blocks must be 1 for these tensors, got 2"),
        ({"attention_resolutions": [8]}, r"network.attention_resolutions must be image_size / 2 for .* image_size / 1"),
        ({"use_scale_shift_norm": False}, r"network.use_scale_shift_norm must be True for these tensors, got False"),
        ({"resblock_updown": True}, r"network.resblock_updown must be False for these tensors, got True"),
        (
            {},
            r"network.in_channels \(channels of data\) must be 1 .*, got 3; network.out_channels .* be 2 .*, got 6",
        ),
    ],
)
def test_a_misfit_names_the_key_of_the_configuration(run: Path, changes: dict[str, Any], key: str) -> None:
    network = RunFolder(run).config()["network"] | changes
    change_config(run, network=network)
    if not changes:
        (run / "records.jsonl").unlink()
        (run / "data.json").write_text('{"shape": [9, 3, 8, 8], "sha256": "0"}')
    with pytest.raises(ValueError, match=key):
        load_checkpoint_model(checkpoint(run))
    module = trained_module(checkpoint(run))
    sizes = {"image_size": 8, "in_channels": 1 if changes else 3, "out_channels": 2 if changes else 6}
    module.eps_model.unet = UNet(**(network | sizes))
    with pytest.raises(ValueError, match=key):
        load_checkpoint(checkpoint(run), L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), module)


def test_a_checkpoint_that_repeats_itself_is_no_bomb(run: Path) -> None:
    """A file of some kB whose tensors would fill any memory."""
    config = RunFolder(run).config()
    content = torch.load(checkpoint(run), weights_only=True)
    state = content["state_dict"]
    content["state_dict"] = {name: torch.zeros(1).expand(2**20, *tensor.shape) for name, tensor in state.items()}
    torch.save(content, checkpoint(run))
    with pytest.raises(ValueError, match="which repeats itself"):
        load_checkpoint_model(checkpoint(run))
    change_config(run, network=config["network"] | {"num_res_blocks": 10**9})
    with pytest.raises(ValueError, match="num_res_blocks must be at most"):
        load_checkpoint_model(checkpoint(run))
    for wrong in ({"a": torch.zeros(2).to_sparse()}, {1: torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.complex64)}):
        torch.save(content | {"state_dict": wrong}, checkpoint(run))
        change_config(run, network=config["network"])
        with pytest.raises(ValueError, match="must hold dense tensors of real numbers by name"):
            load_checkpoint_model(checkpoint(run))


def test_what_is_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ema_rate must be one of .*\[0.9, 0.5\], got 0.99; .*raw"):
        load_checkpoint_model(run, ema_rate=0.99)
    with pytest.raises(ValueError, match=r"weights must be 'ema' or 'raw', got 'mean'"):
        load_checkpoint_model(run, weights="mean")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"step must be one of .*\[0, 2, 4\], got 3"):
        load_checkpoint_model(run, 3)
    with pytest.raises(ValueError, match=r"step must be left out for a checkpoint file, got 4"):
        load_checkpoint_model(checkpoint(run), 4)
    with pytest.raises(FileNotFoundError, match=r"got no such file"):
        load_checkpoint_model(checkpoint(run, 3))
    alone = Path(shutil.copy(checkpoint(run), tmp_path / "alone.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"alone.ckpt must lie in a run .*no config.yaml"):
        load_checkpoint_model(alone)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FileNotFoundError, match=r"checkpoints must hold step=\*.ckpt, got none"):
        load_checkpoint_model(run)
    change_config(run, network="remove")
    with pytest.raises(ValueError, match=r"config.yaml must be written by `probediff fit`, got a file without network"):
        load_checkpoint_model(run)
    (run / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config.yaml cannot be read"):
        load_run_data(run)
    (run / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"must be the folder of a run .*no config.yaml"):
        load_checkpoint_model(run)


def test_the_runs_data(run: Path) -> None:
    data = load_run_data(run)
    assert isinstance(data, Digits)
    assert data.batch_size == 64
    assert np.array_equal(data.images[np.arange(1797)], Digits().load())
    change_config(run, data={"class_path": "probediff.data.Digits", "init_args": {"size": 8}})
    with pytest.raises(ValueError, match=r"data of .*config.yaml must be arguments of Digits .*, got 'size'"):
        load_run_data(run)
