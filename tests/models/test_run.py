"""Models ready to probe: those of a run are bitwise the run's own, published ones say what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from probediff.__main__ import main
from probediff.data import Digits
from probediff.denoisers import GaussianDenoiser, UNet
from probediff.models import fit_gaussian, load_checkpoint_model, load_published, load_run_data
from probediff.models.baseline import image_moments
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from probediff.training.checkpoints import keep_weights_only
from probediff.training.module import DiffusionModule
from tests.reference.golden_inputs import formula_state_dict, hashed_normal

ROOT = Path(__file__).parents[2]
FIT = [
    *("fit", "--config", str(ROOT / "configs" / "digits.yaml"), "--trainer.accelerator=cpu", "--trainer.max_steps=4"),
    *("--network.channels=8", "--model.num_train_timesteps=40", "--model.ema_rates=[0.9,0.5]", "--wandb.mode=disabled"),
    "--model.ema_warmup=false",
    *("--probing.settings.num_samples=17", "--probing.settings.num_steps=4", "--trainer.enable_progress_bar=false"),
    *("--probing.schedule.steps=[2]", "--probing.schedule.every_n_steps=null", "--trainer.enable_model_summary=false"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main([*FIT, f"--run_dir={path}"]) == 0
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(finished, tmp_path / "run")


def checkpoint(run: Path, step: int = 4) -> Path:
    return run / "checkpoints" / f"step={step:08d}.ckpt"


def trained_module(path: Path) -> DiffusionModule:
    """The module of FIT, spelled out, with the weights of a checkpoint."""
    network = UNet(8, 1, 2, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,), num_heads=2)
    module = DiffusionModule(network, num_train_timesteps=40, ema_rates=[0.9, 0.5])
    state = torch.load(path, weights_only=True)["state_dict"]
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return module.eval()


def eps_of(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(hashed_normal("x", (5, 1, 8, 8)).float(), torch.tensor([0, 7, 20, 38, 39]))


def change_config(run: Path, **changes: Any) -> None:
    path = run / "config.yaml"
    config = {k: v for k, v in (yaml.safe_load(path.read_text()) | changes).items() if v != "remove"}
    path.write_text(yaml.safe_dump(config))


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
    with pytest.raises(ValueError, match=r"config.yaml must describe a network of this version, got: .*'heads'"):
        load_checkpoint_model(path)


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
    for config in ({"class_path": "Digits"}, {"class_path": "torch.nn.Linear", "init_args": {}}, {"class_path": "a.B"}):
        change_config(run, data=config)
        with pytest.raises(ValueError, match=r"data of .*config.yaml must be a data module and its arguments"):
            load_run_data(run)
    change_config(run, data={"class_path": "probediff.data.Digits", "init_args": {"size": 8}})
    with pytest.raises(ValueError, match=r"got: .*unexpected keyword argument 'size'"):
        load_run_data(run)


def digits(count: int | None = None) -> Tensor:
    images = torch.from_numpy(Digits().load()).float() / 127.5 - 1
    return images if count is None else images[torch.arange(count) * len(images) // count]


@pytest.mark.parametrize("count", [None, 500])
def test_gaussian_of_the_runs_images(finished: Path, count: int | None) -> None:
    model = fit_gaussian(finished, count)
    schedule = NoiseSchedule.cosine(40)
    expected = GaussianDenoiser.fit(digits(count).double(), schedule)
    torch.testing.assert_close(eps_of(model.eps_model), eps_of(expected), rtol=0, atol=2e-4)
    assert (model.step, model.image_shape, model.clip) == (0, (1, 8, 8), True)
    assert torch.equal(model.schedule.alpha_bar, schedule.alpha_bar)
    extra = {"denoiser": "gaussian", "fitted_to": count or 1797, "ema_rate": None, "dtype": "float32"}
    assert model.conventions == load_checkpoint_model(finished).conventions | extra
    with pytest.raises(ValueError, match=r"num_images must lie in 2..1797.*got 1798"):
        fit_gaussian(finished, 1798)


def test_gaussian_of_a_run_that_flips(run: Path) -> None:
    plain = fit_gaussian(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    change_config(run, model=config["model"] | {"random_flip": True})
    x = hashed_normal("x", (5, 1, 8, 8)).float()
    timestep = torch.tensor([0, 7, 20, 38, 39])
    flipping = fit_gaussian(run).eps_model
    mirrored = flipping(x.flip(-1), timestep).flip(-1)
    torch.testing.assert_close(flipping(x, timestep), mirrored, rtol=0, atol=2e-4)
    assert (plain.eps_model(x, timestep) - flipping(x, timestep)).abs().max() > 0.01


@pytest.mark.parametrize("mirrored", [False, True])
def test_moments_over_many_chunks(mirrored: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2300, 2, 3, 4), dtype=np.uint8)
    indices = np.arange(0, 2300, 2)
    mean, covariance = image_moments(images, indices, mirrored)
    rows = images[indices] / 127.5 - 1
    both = np.concatenate([rows, rows[..., ::-1]]) if mirrored else rows
    flat = both.reshape(len(both), -1)
    np.testing.assert_allclose(mean.numpy(), flat.mean(0), atol=1e-12)
    expected = np.cov(flat.T, bias=True) * len(rows) / (len(rows) - 1)
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-12)


IMPROVED = {"image_size": 32, "channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1}
LSUN = IMPROVED | {"num_heads": 1, "attention_resolutions": (16,), "use_scale_shift_norm": False}
GUIDED = IMPROVED | {"channels": 64, "num_head_channels": 64, "resblock_updown": True}


def openai_file(folder: Path, arguments: dict[str, Any], name: str = "published.pt") -> Path:
    with torch.device("meta"):
        network = UNet(**arguments)
    path = folder / name
    torch.save(formula_state_dict(network.state_dict()), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "schedule", "length"), [(IMPROVED, "cosine", 4000), (LSUN, "linear", 1000), (GUIDED, "linear", 1000)]
)
@torch.no_grad()
def test_published_openai_checkpoints(tmp_path: Path, arguments: dict[str, Any], schedule: Any, length: int) -> None:
    path = openai_file(tmp_path, arguments)
    model = load_published(str(path))
    expected = NoiseSchedule.from_name(schedule, length)
    assert torch.equal(model.schedule.alpha_bar, expected.alpha_bar)
    assert (model.step, model.image_shape, model.clip, model.decode) == (0, (3, 32, 32), True, None)
    assert model.conventions == {
        "ema_rate": None,
        "schedule": schedule,
        "num_train_timesteps": length,
        "image_shape": [3, 32, 32],
        "dtype": "float32",
        "model": "published",
        "source": "openai",
    }
    network = UNet(**arguments).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    x, timestep = hashed_normal("x", (2, 3, 32, 32)).float(), torch.tensor([0, 800])
    expected_eps = network(x, timestep * 1000 / length)[:, :3]
    torch.testing.assert_close(model.eps_model(x, timestep), expected_eps, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("arguments", "shown"), [(IMPROVED, 200.0), (LSUN, 200.0), (GUIDED, 100.0)])
def test_another_process(tmp_path: Path, arguments: dict[str, Any], shown: float) -> None:
    # improved-diffusion rescales its timesteps to 0..1000 unless told otherwise, guided-diffusion does not.
    path = openai_file(tmp_path, arguments)
    model = load_published(str(path), "linear", 500, num_heads=2)
    assert torch.equal(model.schedule.alpha_bar, NoiseSchedule.linear(500).alpha_bar)
    network = UNet(**(arguments | {"num_heads": 2, "num_head_channels": None})).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    x = hashed_normal("x", (1, 3, 32, 32)).float()
    expected = network(x, torch.tensor([shown]))[:, :3]
    torch.testing.assert_close(model.eps_model(x, torch.tensor([100])), expected, rtol=0, atol=1e-5)


def test_published_files_that_are_none(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.pt: no such file"):
        load_published(str(tmp_path / "absent.pt"))
    with pytest.raises(ValueError, match=r"must be a network of improved-.*time_embed.0.weight .*no such tensor"):
        load_published(str(checkpoint(finished)))
    with pytest.raises(ValueError, match=r"schedule must be one of \['cosine', 'linear'\], got 'sqrt'"):
        load_published(str(openai_file(tmp_path, IMPROVED)), "sqrt")  # type: ignore[arg-type]


def test_published_pipelines(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.denoisers.test_pipelines import ddim, diffusers, saved, unet, vq_model

    own = diffusers.LDMPipeline(vq_model(), unet(), ddim(clip_sample=False))
    folder = saved(own, tmp_path / "celeb")
    model = load_published(folder)
    assert model.conventions == {
        "ema_rate": None,
        "schedule": "linear 0.0001..0.02",
        "num_train_timesteps": 100,
        "image_shape": [3, 8, 8],
        "dtype": "float32",
        "model": "celeb",
        "source": "diffusers",
    }
    json.dumps(model.conventions)
    assert (model.step, model.image_shape, model.clip) == (0, (3, 8, 8), False)
    assert model.encode is not None
    assert model.decode is not None
    pixels = model.decode(hashed_normal("codes", (2, 3, 8, 8)).float())
    assert pixels.shape == (2, 3, 16, 16)
    assert model.encode(pixels).shape == (2, 3, 8, 8)
    assert not any(parameter.requires_grad for parameter in model.eps_model.parameters())
    with pytest.raises(ValueError, match=r"num_heads must be left out for a pipeline.*got 4"):
        load_published(folder, num_heads=4)
    shifted = saved(diffusers.DDIMPipeline(unet(), ddim(steps_offset=1)), tmp_path / "shifted")
    with pytest.warns(UserWarning, match=r"samples with \{'steps_offset': 1\}"):
        model = load_published(shifted)
    assert model.conventions["scheduler_differences"] == {"steps_offset": 1}
    assert (model.clip, model.decode, model.encode) == (True, None, None)
