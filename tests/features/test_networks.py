"""Feature networks: loading, refusals, and independence of batches.

No pretrained weights: the networks are built on the spot, with random weights in local files.
"""

import json
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from probediff.exceptions import FeatureLoadError
from probediff.features.networks import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    extract,
    load_features,
)
from tests.features.test_preprocessing import images, pillow, torchvision_pipeline

TINY_TIMM = "test_vit.r160_in1k"
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture
def timm_file(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model(TINY_TIMM, num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def clip_model(tmp_path: Path) -> torch.nn.Module:
    for suffix, extra in {"": {}, "-quickgelu": {"quick_gelu": True}}.items():
        (tmp_path / f"tiny-clip{suffix}.json").write_text(json.dumps(TINY_CLIP | extra))
        open_clip.add_model_config(tmp_path / f"tiny-clip{suffix}.json")
    torch.manual_seed(2)
    model: torch.nn.Module = open_clip.create_model("tiny-clip-quickgelu")
    return model.eval()


def test_timm_features_equal_timms(timm_file: Path) -> None:
    network = load_features(f"timm/{TINY_TIMM}={timm_file}")
    body = timm.create_model(TINY_TIMM, num_classes=0).eval()
    body.load_state_dict(torch.load(timm_file, weights_only=True))
    config = timm.data.resolve_model_data_config(body)
    transform = timm.data.create_transform(**config, is_training=False)
    batch = images(3, 200, 180)
    with torch.no_grad():
        expected = body(torch.stack([transform(pillow(image)) for image in batch]))
    assert network.name == f"timm/{TINY_TIMM}"
    torch.testing.assert_close(network(batch), expected, rtol=0.02, atol=0.02)


def test_timm_files_with_a_classifier_or_as_safetensors(timm_file: Path, tmp_path: Path) -> None:
    network = load_features(f"timm/{TINY_TIMM}={timm_file}")
    whole = timm.create_model(TINY_TIMM)
    weights = torch.load(timm_file, weights_only=True)
    whole.load_state_dict(weights, strict=False)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "whole.pth")
    save_file(weights, tmp_path / "a=b.safetensors")
    for name in ("whole.pth", "a=b.safetensors"):
        assert torch.equal(load_features(f"timm/{TINY_TIMM}={tmp_path / name}")(images(2)), network(images(2)))


def test_dino_is_the_class_token_of_timms_small_vit(tmp_path: Path) -> None:
    with torch.device("meta"):  # timm's own initial values take seconds to draw
        body = timm.create_model("vit_small_patch16_224.dino", num_classes=0).eval()
    generator = torch.Generator().manual_seed(0)
    shapes = {key: value.shape for key, value in body.state_dict().items()}
    weights = {key: 0.05 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    body.load_state_dict(weights, assign=True)
    save_file(body.state_dict(), tmp_path / "dino.safetensors")
    network = load_features(f"dino={tmp_path / 'dino.safetensors'}")
    assert network.preprocessing == Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD)
    batch = images(1)
    with torch.no_grad():
        expected = body.forward_features(network.preprocessing(batch))[:, 0]
    assert network.name == "dino"
    assert expected.shape == (1, 384)
    torch.testing.assert_close(network(batch), expected)


def test_clip_takes_whole_models_and_towers(clip_model: torch.nn.Module, tmp_path: Path) -> None:
    whole, tower = tmp_path / "whole.pt", tmp_path / "tower.safetensors"
    torch.save(clip_model.state_dict(), whole)
    save_file(clip_model.visual.state_dict(), tower)
    batch = images(3)
    preprocessing = Preprocessing(32, 32, CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        expected = clip_model.encode_image(preprocessing(batch))
    for path in (whole, tower):
        network = load_features(f"open_clip/tiny-clip-quickgelu={path}")
        assert network.preprocessing == preprocessing
        torch.testing.assert_close(network(batch), expected)
    plain = load_features(f"open_clip/tiny-clip={whole}")(batch)
    assert not torch.allclose(plain, expected, rtol=1e-4)
    with torch.no_grad():
        pillow_input = torch.stack([torchvision_pipeline(preprocessing)(pillow(image)) for image in batch])
        torch.testing.assert_close(expected, clip_model.encode_image(pillow_input), rtol=1e-3, atol=1e-3)


def test_clip_of_openai_uses_quick_gelu(
    clip_model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain name ViT-B-32 has GELU; a file given as ``clip=`` holds OpenAI's weights, which need QuickGELU."""
    torch.save(clip_model.state_dict(), tmp_path / "clip.pt")
    tiny_model = open_clip.create_model

    def create_model(name: str, **options: Any) -> torch.nn.Module:
        assert name == "ViT-B-32"
        model: torch.nn.Module = tiny_model("tiny-clip", **options)
        return model

    monkeypatch.setattr(open_clip, "create_model", create_model)
    network = load_features(f"clip={tmp_path / 'clip.pt'}")
    assert network.name == "clip"
    with torch.no_grad():
        expected = clip_model.encode_image(network.preprocessing(images(2)))
    torch.testing.assert_close(network(images(2)), expected)


def test_networks_are_frozen_and_loading_draws_no_global_randomness(timm_file: Path) -> None:
    before = torch.get_rng_state()
    network = load_features(f"timm/{TINY_TIMM}={timm_file}")
    assert torch.equal(torch.get_rng_state(), before)
    torch.nn.ModuleList([network]).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_features_do_not_depend_on_batch_order_or_autocast(timm_file: Path) -> None:
    network = load_features(f"timm/{TINY_TIMM}={timm_file}")
    batch = images(7, channels=1)
    features = extract(network, batch, batch_size=7)
    assert (features.shape, features.dtype, features.device.type) == ((7, 64), torch.float32, "cpu")
    assert not features.requires_grad
    assert float(torch.pdist(features).min()) > 1e-3
    torch.testing.assert_close(extract(network, batch.flip(0), batch_size=3).flip(0), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extract(network, batch.expand(-1, 3, -1, -1)), features, rtol=1e-4, atol=1e-5)
    assert torch.equal(extract(network, batch, batch_size=7), features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extract(network, batch, batch_size=7), features)


@pytest.mark.parametrize("spec", ["", "inception", "dino=", "timm/", "clip/ViT-B-32", "timm/=a.pth", "vit=a.pth"])
def test_specifications_of_another_grammar(spec: str) -> None:
    with pytest.raises(ValueError, match=r"features must be 'dino', 'clip', .* list no features: '\[\]'") as caught:
        load_features(spec)
    assert repr(spec) in str(caught.value)


class Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_files_that_hold_no_fitting_weights(timm_file: Path, tmp_path: Path) -> None:
    weights = torch.load(timm_file, weights_only=True)
    torch.save({key: value for key, value in weights.items() if key != "norm.weight"}, tmp_path / "lacking.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    torch.save(Evil(tmp_path / "executed"), tmp_path / "evil.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    messages = {
        "lacking.pth": "the weights must fit the network, got 1 differences: missing norm.weight",
        "list.pth": "must hold a state dict, got list of length 2",
        "numbers.pth": "must hold a state dict of tensors, got int in 'epoch'",
        "evil.pth": "UnpicklingError: it is damaged, or holds Python objects",
        "text.safetensors": "text.safetensors cannot be read",
        "absent.pth": "FileNotFoundError",
    }
    for name, message in messages.items():
        with pytest.raises(FeatureLoadError, match=message) as caught:
            load_features(f"timm/{TINY_TIMM}={tmp_path / name}")
        assert f"the feature network 'timm/{TINY_TIMM}'" in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(FeatureLoadError, match="timm knows no network no_such_network"):
        load_features("timm/no_such_network=a.pth")


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.mark.usefixtures("empty_hub")
@pytest.mark.parametrize(
    ("spec", "recipe"),
    [
        ("dino", r"hf download timm/vit_small_patch16_224.dino model.safetensors .* dino=model.safetensors"),
        ("clip", r"timm/vit_base_patch32_clip_224.openai .* clip=open_clip_model.safetensors"),
        (f"timm/{TINY_TIMM}", rf"torch.save and give timm/{TINY_TIMM}=FILE"),
    ],
)
def test_no_network_says_what_to_do_without_trying_again_and_again(
    spec: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(FeatureLoadError, match=recipe) as caught:
        load_features(spec)
    message = str(caught.value)
    assert f"the feature network {spec!r}" in message
    assert "could not be loaded from the hub: ConnectError" in message
    assert "To do without: --checkpoint_similarity.features '[]' in" in message
    assert waits == []


def test_cached_weights_need_no_network(empty_hub: Path, timm_file: Path) -> None:
    repository = empty_hub / f"models--timm--{TINY_TIMM}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(torch.load(timm_file, weights_only=True), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    batch = images(2)
    expected = load_features(f"timm/{TINY_TIMM}={timm_file}")(batch)
    assert torch.equal(load_features(f"timm/{TINY_TIMM}")(batch), expected)


@pytest.mark.usefixtures("empty_hub", "clip_model")
def test_networks_that_are_on_no_hub() -> None:
    with pytest.raises(FeatureLoadError, match="open_clip lists no pretrained weights for tiny-clip"):
        load_features("open_clip/tiny-clip")
