"""Published models say what they are, in the process that they were trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.denoisers import UNet
from probediff.files import digest_tensors
from probediff.models import load_published
from probediff.schedule import NoiseSchedule
from tests.models.tiny_run import checkpoint
from tests.reference.golden_inputs import formula_state_dict, hashed_normal

IMPROVED = {"image_size": 32, "channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1}
LSUN = IMPROVED | {"num_heads": 1, "attention_resolutions": (16,), "use_scale_shift_norm": False}
GUIDED = IMPROVED | {"channels": 64, "num_head_channels": 64, "resblock_updown": True}
#: What the tensors do not say, of each.
GIVEN: dict[str, Any] = {"image_size": 32, "num_heads": 4, "schedule": "cosine", "num_train_timesteps": 4000}
LSUN_GIVEN = GIVEN | {"num_heads": 1, "schedule": "linear", "num_train_timesteps": 1000}
GUIDED_GIVEN = {"image_size": 32, "num_head_channels": 64, "schedule": "linear", "num_train_timesteps": 1000}


def openai_file(folder: Path, arguments: dict[str, Any], name: str = "published.pt") -> Path:
    with torch.device("meta"):
        network = UNet(**arguments)
    path = folder / name
    torch.save(formula_state_dict(network.state_dict()), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "given"), [(IMPROVED, GIVEN), (LSUN, LSUN_GIVEN), (GUIDED, GUIDED_GIVEN)], ids=["4", "1", "64 a head"]
)
@torch.no_grad()
def test_openai_checkpoints_of_another_architecture(
    tmp_path: Path, arguments: dict[str, Any], given: dict[str, Any]
) -> None:
    path = openai_file(tmp_path, arguments)
    model = load_published(str(path), **given)
    length = given["num_train_timesteps"]
    expected = NoiseSchedule.from_name(given["schedule"], length)
    assert torch.equal(model.schedule.alpha_bar, expected.alpha_bar)
    assert (model.step, model.image_shape, model.clip, model.decode) == (0, (3, 32, 32), True, None)
    attention = "1/2, 1/4" if len(arguments.get("attention_resolutions", (16, 8))) == 2 else "1/2"
    assert model.conventions == {
        "ema_rate": None,
        "schedule": given["schedule"],
        "num_train_timesteps": length,
        "image_shape": [3, 32, 32],
        "dtype": "float32",
        "model": "published",
        "source": "openai",
        "weights": "as published",
        "architecture": f"{arguments['channels']} channels times 1,2,2, 1 residual blocks, "
        f"attention at {attention} size",
        "num_heads": given.get("num_heads"),
        "num_head_channels": given.get("num_head_channels"),
        "attention_order": "head, q k v",
        "timestep_scale": 1000 / length,
    }
    json.dumps(model.conventions)
    network = UNet(**arguments).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    x, timestep = hashed_normal("x", (2, 3, 32, 32)).float(), torch.tensor([0, 800])
    expected_eps = network(x, timestep * 1000 / length)[:, :3]
    torch.testing.assert_close(model.eps_model(x, timestep), expected_eps, rtol=0, atol=1e-5)


def test_what_the_tensors_do_not_say_is_asked_for(tmp_path: Path) -> None:
    """A network of 64 pixels with attention at 32 and 16 looks like one of 32 pixels, and was taken for it."""
    path = str(openai_file(tmp_path, IMPROVED | {"image_size": 64, "attention_resolutions": (32, 16)}))
    everything = (
        r"image_size, num_heads, schedule, num_train_timesteps must be given for .*published.pt, got none of them: "
        r"its architecture \(32 channels times 1,2,2, 1 residual blocks, attention at 1/2, 1/4 size\) is none of .* "
        r"for example --image_size 64 --num_heads 4 --schedule cosine --num_train_timesteps 4000"
    )
    with pytest.raises(ValueError, match=everything):
        load_published(path)
    for name in GIVEN:
        others = {key: value for key, value in GIVEN.items() if key != name}
        with pytest.raises(ValueError, match=rf"^{name} must be given for .*got {', '.join(others)}: "):
            load_published(path, **others)
    assert load_published(path, **(GIVEN | {"image_size": 64})).image_shape == (3, 64, 64)
    with pytest.raises(ValueError, match=r"image_size must be a multiple of 4 .*got 30"):
        load_published(path, **(GIVEN | {"image_size": 30}))


def test_of_a_published_architecture_all_is_known(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = str(openai_file(tmp_path, {"image_size": 32}, "cifar10.pt"))
    model = load_published(path)
    assert model.image_shape == (3, 32, 32)
    assert torch.equal(model.schedule.alpha_bar, NoiseSchedule.cosine(4000).alpha_bar)
    assert model.conventions["architecture"] == "improved-diffusion CIFAR-10"
    assert (model.conventions["num_heads"], model.conventions["weights"]) == (4, "as published")
    assert load_published(path, "cosine", 4000, 4, 32).conventions == model.conventions
    assert not [warning for warning in recwarn if "was given" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"image_size 64 was given for .*improved-diffusion CIFAR-10, which has 32"):
        other = load_published(path, image_size=64)
    assert other.conventions == model.conventions | {"image_shape": [3, 64, 64]}


@torch.no_grad()
@pytest.mark.parametrize(("arguments", "shown"), [(IMPROVED, 200.0), (LSUN, 200.0), (GUIDED, 100.0)])
def test_another_process(tmp_path: Path, arguments: dict[str, Any], shown: float) -> None:
    # improved-diffusion rescales its timesteps to 0..1000 unless told otherwise, guided-diffusion does not.
    path = openai_file(tmp_path, arguments)
    model = load_published(str(path), "linear", 500, num_heads=2, image_size=32)
    assert torch.equal(model.schedule.alpha_bar, NoiseSchedule.linear(500).alpha_bar)
    assert model.conventions["timestep_scale"] == shown / 100
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
    with pytest.raises(
        ValueError, match=r"schedule must be one of \['cosine', 'linear', 'scaled_linear'\], got 'sqrt'"
    ):
        load_published(str(openai_file(tmp_path, IMPROVED)), **(GIVEN | {"schedule": "sqrt"}))


def test_published_pipelines(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.reference.tiny_pipelines import ddim, diffusers, saved, unet, vq_model

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
        "weights": "as published",
        "prediction_type": "epsilon",
        "vae_encoding": "before rounding",
        "scaling_factor": 0.4,
        "autoencoder_sha256": digest_tensors(own.vqvae.state_dict().items()),
    }
    json.dumps(model.conventions)
    assert (model.step, model.image_shape, model.clip) == (0, (3, 8, 8), False)
    assert model.encode is not None
    assert model.decode is not None
    pixels = model.decode(hashed_normal("codes", (2, 3, 8, 8)).float())
    assert pixels.shape == (2, 3, 16, 16)
    assert model.encode(pixels).shape == (2, 3, 8, 8)
    assert not any(parameter.requires_grad for parameter in model.eps_model.parameters())
    for name, value in {"num_heads": 4, "image_size": 8, "num_head_channels": 4, "num_train_timesteps": 100}.items():
        with pytest.raises(ValueError, match=rf"{name} must be left out for a pipeline.*got {value}"):
            load_published(folder, **{name: value})
    shifted = saved(diffusers.DDIMPipeline(unet(), ddim(steps_offset=1)), tmp_path / "shifted")
    with pytest.warns(UserWarning, match=r"samples with \{'steps_offset': 1\}"):
        model = load_published(shifted)
    assert model.conventions["scheduler_differences"] == {"steps_offset": 1}
    assert (model.clip, model.decode, model.encode) == (True, None, None)
    assert "vae_encoding" not in model.conventions
