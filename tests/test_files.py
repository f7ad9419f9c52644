"""Files of weights: every wrapper and prefix that training code adds, what is refused, and strict loading."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from probediff.denoisers import UNet, load_openai_network
from probediff.exceptions import FeatureLoadError
from probediff.features.networks import load_features
from probediff.files import PREFIXES, WRAPPERS, load_strictly, read_checkpoint, read_weights, save_tensors
from probediff.models import load_checkpoint_model
from probediff.training.checkpoints import load_checkpoint
from tests.conftest import tiny_module
from tests.reference.golden_inputs import formula_state_dict

TIMM_NAME = "test_vit.r160_in1k"
State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def others(state: State) -> State:
    """Tensors of the same names with other values."""
    return {name: tensor + 1 for name, tensor in state.items()}


FORMS: dict[str, Any] = {
    "plain": lambda state: state,
    **{name: lambda state, name=name: {name: state, "epoch": 3} for name in WRAPPERS},
    **{prefix: lambda state, prefix=prefix: prefixed(state, prefix) for prefix in PREFIXES},
    "compiled, then distributed": lambda state: {"model": prefixed(state, "module._orig_mod.")},
    "distributed, then compiled": lambda state: {"model": prefixed(state, "_orig_mod.module.")},
    "wrappers in each other": lambda state: {"model": {"state_dict": state}},
    "averaged weights beside raw ones": lambda state: {"model": others(state), "ema": state},
    "DINO": lambda state: {
        "student": prefixed(others(state), "module.backbone."),
        "teacher": prefixed(state, "backbone.") | {"head.last_layer.weight": torch.zeros(2)},
    },
}


@pytest.fixture(scope="module")
def unet_state() -> State:
    with torch.device("meta"):
        network = UNet(8, channels=32, channel_mult=(1,), out_channels=3, num_res_blocks=1, attention_resolutions=())
    return formula_state_dict(network.state_dict())


@pytest.mark.parametrize("form", FORMS)
def test_published_models_in_every_form(unet_state: State, tmp_path: Path, form: str) -> None:
    torch.save(FORMS[form](unet_state), tmp_path / "published.pt")
    weights = load_openai_network(tmp_path / "published.pt").state_dict()
    assert weights.keys() == unet_state.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in unet_state.items())


@pytest.mark.parametrize("form", FORMS)
def test_feature_networks_in_every_form(tmp_path: Path, form: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = timm.create_model(TIMM_NAME, num_classes=0).state_dict()
    torch.save(FORMS[form](state), tmp_path / "vit.pth")
    weights = load_features(f"timm/{TIMM_NAME}={tmp_path / 'vit.pth'}").body.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


def test_safetensors_have_prefixes_too(unet_state: State, tmp_path: Path) -> None:
    save_file(prefixed(unet_state, "module."), tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").keys() == unet_state.keys()


class Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.fixture(params=["pickle", "object", "TorchScript", "text", "safetensors"])
def unreadable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / ("a.safetensors" if request.param == "safetensors" else "a.pt")
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Evil(tmp_path / "executed"), protocol=2))
    elif request.param == "object":
        torch.save({"state_dict": Evil(tmp_path / "executed")}, path)
    elif request.param == "TorchScript":
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    else:
        path.write_text("no weights")
    return path


@pytest.mark.filterwarnings("ignore:.*TorchScript archive", "ignore:.*torch.jit")
def test_no_reader_runs_code_or_passes_on_how_to(unreadable: Path, tmp_path: Path) -> None:
    model = {"schedule": "cosine", "num_train_timesteps": 40, "ema_rates": [0.9], "rescale_timesteps": True}
    network = {"channels": 8, "channel_mult": [1], "attention_resolutions": []}
    config = {"model": model, "network": network, "data": {"class_path": "probediff.data.Digits"}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    readers: dict[Any, type[Exception]] = {
        read_checkpoint: ValueError,
        read_weights: ValueError,
        load_openai_network: ValueError,
        load_checkpoint_model: ValueError,
        lambda path: load_checkpoint(path, trainer, tiny_module()): ValueError,
        lambda path: load_features(f"timm/{TIMM_NAME}={path}"): FeatureLoadError,
    }
    for reader, error in readers.items():
        with pytest.raises(error, match=f"{unreadable}.*cannot be read") as caught:
            reader(unreadable)
        assert not re.search("weights_only|torch[.]save[(]_|mmap", str(caught.value))
        assert "trust" not in str(caught.value)
        assert "\n" not in str(caught.value) or error is FeatureLoadError
    assert not (tmp_path / "executed").exists()


def test_differences_are_counted_and_the_first_named() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    state = {name: tensor for name, tensor in network.state_dict().items() if "bias" not in name}
    wrong = state | {"1.weight": torch.zeros(4, 5), "x.y": torch.zeros(1), "z": torch.zeros(1), "last": torch.zeros(1)}
    with pytest.raises(
        ValueError,
        match=r"^a must fit, got 6 differences: missing 0.bias; missing 1.bias; unexpected x.y; unexpected z; "
        r"unexpected last\. Save it anew$",
    ):
        load_strictly(network, wrong, "a must fit", "Save it anew")
    with pytest.raises(ValueError, match=r"got 3 .*missing 1.bias; size mismatch for 1.weight: .*\[4, 5\].*\.$"):
        load_strictly(network, state | {"1.weight": torch.zeros(4, 5)}, "a must fit")


def test_networks_without_memory_take_the_tensors_themselves() -> None:
    with torch.device("meta"):
        network = nn.Linear(3, 2)
    weights = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    load_strictly(network, weights, "a must fit", assign=True)
    assert network.weight.data_ptr() == weights["weight"].data_ptr()


def test_tensors_are_saved_whole(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"x": torch.arange(6.0).reshape(2, 3).T})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], torch.arange(6.0).reshape(2, 3).T)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
