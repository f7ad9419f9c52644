"""Published models say what they are, in the process that they were trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.denoisers import UNet
from probediff.models import load_published
from probediff.schedule import NoiseSchedule
from tests.models.tiny_run import checkpoint
from tests.reference.golden_inputs import formula_state_dict, hashed_normal

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
