"""``probediff probe``: the numbers of training again, other settings, other models, interruptions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from probediff.commands.probe import _real_images, probe
from probediff.data import ImageFolder
from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import UNet
from probediff.measures import triangle_distances
from probediff.models import load_checkpoint_model
from probediff.models.source import Source
from probediff.noise import seeded_noise
from probediff.runs.batches import PartialPass
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.callbacks.passes import latent_model
from tests.commands.conftest import write_images
from tests.commands.reading import read_values

ROOT = Path(__file__).parents[2]


def probed(model: Path, out: Path, *options: str) -> Path:
    assert probe([str(model), "--out", str(out), "--device", "cpu", "--progress", "false", *options]) == 0
    return out


def test_replaying_a_run_gives_its_numbers_bit_for_bit(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = probed(tiny_run, tmp_path / "out") / "num_steps=0008"
    ours, theirs = read_values(out), read_values(tiny_run)
    assert len(ours) > 15
    assert ours == theirs
    assert f"{len(ours)} of {len(ours)} records have exactly the numbers" in capsys.readouterr().out
    for step in (0, 2, 4):
        assert RunFolder(out).sample_path(step).read_bytes() == RunFolder(tiny_run).sample_path(step).read_bytes()


def test_an_interrupted_probe_goes_on_where_it_was(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probed(tiny_run, tmp_path / "whole", "--checkpoints", "last") / "num_steps=0008"
    saved: list[int] = []
    save = PartialPass.save

    def interrupted(self: PartialPass, indices: torch.Tensor, made: dict[str, torch.Tensor]) -> None:
        save(self, indices, made)
        saved.append(len(indices))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialPass, "save", interrupted)
    arguments = [str(tiny_run), "--out", str(tmp_path / "cut"), "--device", "cpu", "--checkpoints", "last"]
    assert probe([*arguments, "--progress", "false"]) == 130
    assert saved == [10, 10]
    assert read_values(tmp_path / "cut" / "num_steps=0008") == {}
    probed(tiny_run, tmp_path / "cut", "--checkpoints", "last")
    assert saved == [10, 10, 4]
    assert read_values(tmp_path / "cut" / "num_steps=0008") == read_values(whole)
    assert not list((tmp_path / "cut").rglob("rows=*"))


def test_more_checkpoints_can_follow(tiny_run: Path, tmp_path: Path) -> None:
    out = probed(tiny_run, tmp_path / "out", "--checkpoints", "4")
    probed(tiny_run, out, "--checkpoints", "0,4")
    folder = RunFolder(out / "num_steps=0008")
    ends = [record["step"] for record in folder.records() if record["probe"] == "timing"]
    assert sorted(ends) == [0, 4]
    assert [record["probe"] for record in folder.records()].count("run") == 1
    assert (0, "checkpoint_similarity_final") in read_values(folder.path)


def test_several_numbers_of_steps(tiny_run: Path, tmp_path: Path) -> None:
    out = probed(tiny_run, tmp_path / "out", "--checkpoints", "last", "--num_steps", "2,40")
    few, many = read_values(out / "num_steps=0002"), read_values(out / "num_steps=0040")
    assert few.keys() == many.keys()
    assert few[4, "pass"]["network_evaluations"] == 4
    assert many[4, "pass"]["network_evaluations"] == 80
    model = load_checkpoint_model(tiny_run)
    noise = seeded_noise(420, range(24), (1, 8, 8))
    with torch.no_grad():
        x_0 = ddim_sample(model.eps_model, model.schedule, noise, 40)
    assert RunFolder(out / "num_steps=0040").load_samples(4) == pytest.approx(x_0, abs=1e-3)


def test_the_samples_of_the_final_model_inverted_by_each_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    """P1-F4, against its parts put together by hand."""
    out = probed(tiny_run, tmp_path / "out", "--samples", "final") / "num_steps=0008"
    found = read_values(out)
    assert {step for step, name in found if name == "inversion_angles"} == {0, 2, 4}
    assert not any(name in ("assignment_accuracy", "fixed_noise_generation") for _, name in found)
    assert found[4, "inversion_angles"] == read_values(tiny_run)[4, "inversion_angles"]
    noise = seeded_noise(420, range(24), (1, 8, 8))
    with torch.no_grad():
        final, first = load_checkpoint_model(tiny_run), load_checkpoint_model(tiny_run, step=0)
        x_0 = ddim_sample(final.eps_model, final.schedule, noise, 8)
        latent = ddim_invert(first.eps_model, first.schedule, x_0, 8)
    expected = triangle_distances(noise, x_0, latent).image_latent.mean()
    assert found[0, "inversion_angles"]["distance_image_latent_mean"] == pytest.approx(float(expected), rel=1e-4)
    assert {r["conventions"]["samples_of_step"] for r in RunFolder(out).records() if r["conventions"]} == {4}


def test_images_of_the_user(tiny_run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    (tmp_path / "mine").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "mine" / f"{k}.png")
    options = ["--images", str(tmp_path / "mine"), "--checkpoints", "last"]
    out = probed(tiny_run, tmp_path / "out", *options) / "num_steps=0008"
    model = load_checkpoint_model(tiny_run)
    x_0 = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    with torch.no_grad():
        latent = ddim_invert(model.eps_model, model.schedule, x_0, 8)
    stored = load_file(out / "samples" / "step=00000004.latents.safetensors")["latent"]
    assert torch.allclose(stored, latent, atol=1e-5)
    record = next(r for r in RunFolder(out).records() if r["probe"] == "pixel_correlation")
    assert record["conventions"]["images"] == "mine"
    assert record["conventions"]["num_samples"] == 5
    assert not any(name == "inversion_angles" for _, name in read_values(out))


def test_the_gaussian_denoiser_of_the_same_data(tiny_run: Path, tmp_path: Path) -> None:
    out = probed(tiny_run, tmp_path / "out", "--denoiser", "gaussian") / "num_steps=0008"
    found = read_values(out)
    assert found[0, "assignment_accuracy"]["image_to_noise"] > 0.5
    assert {r["conventions"]["denoiser"] for r in RunFolder(out).records() if r["conventions"]} == {"gaussian"}


def test_a_state_dict_in_the_format_of_openai(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNet(
        image_size=32, in_channels=3, out_channels=6, channels=32, channel_mult=(1, 2), num_res_blocks=1,
        attention_resolutions=(16,), num_heads=4,
    )  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "small.pt")
    options = ["--settings.num_samples=12", "--num_steps=4", "--num_train_timesteps=40", "--schedule=cosine"]
    options += ["--checkpoint_similarity.enabled=false", "--image_size=32", "--num_heads=4"]
    out = probed(tmp_path / "small.pt", tmp_path / "out", *options) / "num_steps=0004"
    noise = seeded_noise(420, range(12), (3, 32, 32))
    eps_model = lambda x, t: network.eval()(x, t * 1000.0 / 40)[:, :3]  # noqa: E731
    with torch.no_grad():
        x_0 = ddim_sample(eps_model, NoiseSchedule.cosine(40), noise, 4)
    assert torch.allclose(RunFolder(out).load_samples(0), x_0, atol=1e-3)


def test_a_latent_diffusion_model(tmp_path: Path) -> None:
    """P1's LDM: measured in its codes, shown in pixels; its own convention and clipping by default."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    autoencoder = diffusers.VQModel(block_out_channels=(8, 8), norm_num_groups=4, **blocks)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, attention_head_dim=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=40, clip_sample=False)
    diffusers.LDMPipeline(autoencoder, unet, scheduler).save_pretrained(tmp_path / "ldm")
    options = ["--settings.num_samples=12", "--num_steps=4", "--checkpoint_similarity.num_directions=3"]
    out = probed(tmp_path / "ldm", tmp_path / "out", *options) / "num_steps=0004"
    conventions = RunFolder(out).records()[-2]["conventions"]
    assert conventions["image_shape"] == [3, 8, 8]
    assert (conventions["convention"], conventions["clip"]) == ("diffusers", False)
    assert conventions["model"] == "ldm"
    picture = np.asarray(Image.open(out / "pictures" / "step=00000000.fixed_noise_generation.samples.png"))
    factor = 64 // 16
    assert picture.shape == ((16 * factor + 2) * 3 + 2, (16 * factor + 2) * 4 + 2, 3)
    assert (out / "pictures" / "step=00000000.inversion_angles.latents.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoints", "1,4"], r"--checkpoints must be among the stored ones, got \[1\]; there are \[0, 2, 4\]"),
        (["--num_steps", "8,30"], "num_steps=30 does not divide 40 timesteps"),
        (["--images", "x", "--samples", "final"], "exclude each other"),
        (["--settings.inversion.method", "edict"], "clip and clip_inversion must be false"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert probe([str(tiny_run), "--out", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not list(tmp_path.rglob("*.jsonl"))


def test_results_of_other_settings_are_not_mixed(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probed(tiny_run, tmp_path / "out", "--checkpoints", "last")
    assert probe([str(tiny_run), "--out", str(tmp_path / "out"), "--settings.noise_seed", "1"]) == 1
    assert "holds results with noise_seed=420, asked for 1; give another --out" in capsys.readouterr().err


def test_a_reference_is_read_once_and_in_the_size_of_the_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes of 1 x 8 x 8 that are decoded to pixels of 3 x 16 x 16."""
    folder = write_images(tmp_path / "images", np.full((4, 20, 20, 3), 128, dtype=np.uint8))
    calls, setup = list[str](), ImageFolder.setup

    def counting(folder: ImageFolder, stage: str | None = None) -> None:
        calls.append(folder.path.name)
        setup(folder, stage)

    monkeypatch.setattr(ImageFolder, "setup", counting)
    source = Source([0], lambda step: latent_model(), None, tmp_path)
    real_images, training = _real_images(source, str(folder), latent_model())
    assert real_images is not None and training is None
    assert [len(real_images(count)) for count in (3, 4, 10)] == [3, 4, 4]
    assert real_images(1).shape == (1, 3, 16, 16)
    assert calls == ["images"]
