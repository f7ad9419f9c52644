"""Reading published checkpoints: the architecture from the tensors, and clear errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from probediff.denoisers import OpenAICheckpoint, UNet, load_openai, load_openai_network
from probediff.denoisers.blocks import AttentionBlock
from probediff.denoisers.openai import Untold
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import formula_state_dict, hashed_normal, load_golden

SCHEDULE = NoiseSchedule.linear(1000)
IMPROVED = {"image_size": 32, "channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1}
LSUN_LIKE = {
    "image_size": 64,
    "channels": 32,
    "channel_mult": (1, 1, 2),
    "num_res_blocks": 2,
    "num_heads": 1,
    "attention_resolutions": (16,),
    "use_scale_shift_norm": False,
}
GUIDED = {
    "image_size": 64,
    "channels": 64,
    "channel_mult": (1, 2, 2, 3),
    "num_res_blocks": 1,
    "num_head_channels": 64,
    "attention_resolutions": (32, 16, 8),
    "resblock_updown": True,
}
NO_ATTENTION = {"image_size": 8, "channels": 32, "channel_mult": (2,), "out_channels": 3, "attention_resolutions": ()}


def checkpoint(arguments: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = UNet(**arguments)
    return formula_state_dict(network.state_dict())


def save(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("arguments", [IMPROVED, LSUN_LIKE, GUIDED, NO_ATTENTION])
@torch.no_grad()
def test_loads_the_same_network(tmp_path: Path, arguments: dict[str, Any], suffix: str) -> None:
    state = checkpoint(arguments)
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    expected = UNet(**arguments).eval()
    expected.load_state_dict(state)
    before = torch.get_rng_state()
    model = load_openai(path, SCHEDULE)
    assert torch.equal(torch.get_rng_state(), before)
    x, timestep = hashed_normal("x", (2, 3, 16, 16)).float(), torch.tensor([0, 800])
    torch.testing.assert_close(model.output(x, timestep), expected(x, timestep.float()), rtol=0, atol=1e-6)
    assert model.unet.image_size == 8 * 2 ** (len(arguments["channel_mult"]) - 1)
    assert load_openai(path, SCHEDULE, image_size=64).unet.image_size == 64
    assert not model.training
    assert model.num_train_timesteps == 1000


LSUN = {
    "image_size": 256,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "num_res_blocks": 2,
    "num_heads": 1,
    "attention_resolutions": (16,),
    "use_scale_shift_norm": False,
}
GUIDED_256 = {
    "image_size": 256,
    "channels": 256,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "attention_resolutions": (32, 16, 8),
    "resblock_updown": True,
}


def read_meta(arguments: dict[str, Any]) -> tuple[OpenAICheckpoint, UNet]:
    """A checkpoint of a network that has shapes and no values."""
    with torch.device("meta"):
        network = UNet(**arguments)
    return OpenAICheckpoint(Path("meta.pt"), network.state_dict()), network


@pytest.mark.parametrize(
    ("arguments", "name", "process"),
    [
        ({"image_size": 32}, "improved-diffusion CIFAR-10", ("cosine", 4000)),
        ({"image_size": 64, "channel_mult": (1, 2, 3, 4)}, "improved-diffusion ImageNet 64x64", ("cosine", 4000)),
        (LSUN, "improved-diffusion LSUN 256x256", ("linear", 1000)),
        (GUIDED_256, "guided-diffusion 256x256", ("linear", 1000)),
    ],
)
def test_what_is_known_of_published_architectures(
    arguments: dict[str, Any], name: str, process: tuple[str, int]
) -> None:
    """The flags of the published commands, by hand."""
    checkpoint, expected = read_meta(arguments)
    published = checkpoint.published
    assert published is not None
    assert (published.name, (published.schedule, published.num_train_timesteps)) == (name, process)
    inferred = checkpoint.network(checkpoint.untold())
    assert str(inferred) == str(expected)
    assert inferred.image_size == expected.image_size == arguments["image_size"]
    assert heads(inferred) == heads(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        # Attention at 32 and 16 of 64 pixels, which looks like 16 and 8 of 32; and at others' places.
        {"image_size": 64, "attention_resolutions": (32, 16), "num_res_blocks": 2},
        {"image_size": 32, "attention_resolutions": (16,)},
        {"image_size": 32, "channels": 64},
        {"image_size": 32, "use_scale_shift_norm": False},
        LSUN | {"use_scale_shift_norm": True},
        GUIDED_256 | {"attention_resolutions": (16, 8)},
    ],
)
def test_what_is_nearly_published_is_not_known(arguments: dict[str, Any]) -> None:
    checkpoint, expected = read_meta(arguments)
    assert checkpoint.published is None
    given = {name: arguments.get(name) for name in ("image_size", "num_head_channels")}
    inferred = checkpoint.network(checkpoint.untold(num_heads=arguments.get("num_heads"), **given))
    assert str(inferred) == str(expected)
    assert inferred.image_size == expected.image_size


def test_size_and_heads_that_are_given() -> None:
    checkpoint, _ = read_meta({"image_size": 64, "num_res_blocks": 2})
    assert checkpoint.untold(64, num_heads=2) == Untold(64, 2, None)
    assert checkpoint.untold(64, num_head_channels=64) == Untold(64, None, 64)
    assert set(heads(checkpoint.network(checkpoint.untold(64, num_head_channels=64)))) == {4}
    for size in (0, -8, 12, 36):
        with pytest.raises(ValueError, match=rf"image_size must be a multiple of 8 for the 4 levels.*got {size}:"):
            checkpoint.untold(size)
    with pytest.raises(ValueError, match=r"num_heads and num_head_channels exclude each other, got 4 and 64"):
        checkpoint.untold(64, 4, 64)
    for wrong in ({"num_heads": 0}, {"num_head_channels": 0}):
        with pytest.raises(ValueError, match=r"must be .*got 0"):
            checkpoint.network(checkpoint.untold(64, **wrong))


@pytest.mark.parametrize(
    "case",
    [
        "improved_32",
        "improved_lsun_like",
        "guided_legacy_order",
        "guided_256_narrow",
        pytest.param("improved_64", marks=pytest.mark.slow),
        pytest.param("guided_256", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_a_file_gives_the_authors_output(tmp_path: Path, case: str) -> None:
    golden = load_golden("unet")["cases"][case]
    path = save(tmp_path, checkpoint(golden["ours"]))
    network = load_openai_network(path)
    timestep = torch.tensor(golden["timestep"])
    x = hashed_normal("x", (len(timestep), 3, golden["size"], golden["size"])).float()
    output = network(x, timestep)
    thinned = output.flatten()[:: golden["stride"]]
    torch.testing.assert_close(thinned, torch.tensor(golden["output"]), rtol=0, atol=1e-5)
    means = output.abs().mean(dim=(0, 2, 3))
    torch.testing.assert_close(means, torch.tensor(golden["channel_mean_absolute"]), rtol=0, atol=1e-5)
    if case in ("improved_32", "improved_64", "guided_256"):
        assert network.image_size == golden["size"]


@pytest.mark.parametrize(("arguments", "shown"), [(IMPROVED, 250.0), (LSUN_LIKE, 250.0), (GUIDED, 1000.0)])
@torch.no_grad()
def test_timesteps_are_rescaled_as_by_default(tmp_path: Path, arguments: dict[str, Any], shown: float) -> None:
    model = load_openai(save(tmp_path, checkpoint(arguments)), NoiseSchedule.cosine(4000))
    x = hashed_normal("x", (1, 3, 16, 16)).float()
    torch.testing.assert_close(model.output(x, torch.tensor([1000])), model.unet(x, torch.tensor([shown])))


def heads(network: nn.Module) -> list[int]:
    return [module.num_heads for module in network.modules() if isinstance(module, AttentionBlock)]


@pytest.mark.parametrize("arguments", [IMPROVED, GUIDED])
def test_number_of_heads_can_be_given(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = save(tmp_path, checkpoint(arguments))
    assert set(heads(load_openai(path, SCHEDULE, num_heads=2))) == {2}
    with pytest.raises(ValueError, match=r"checkpoint.pt must be a network of.*num_heads must divide.*got 5"):
        load_openai(path, SCHEDULE, num_heads=5)


def test_half_precision_checkpoint_becomes_float32(tmp_path: Path) -> None:
    state = checkpoint(IMPROVED)
    model = load_openai(save(tmp_path, {name: tensor.half() for name, tensor in state.items()}), SCHEDULE)
    weights = model.unet.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["out.2.weight"], state["out.2.weight"].half().float())


def test_class_conditional_checkpoint(tmp_path: Path) -> None:
    state = checkpoint(IMPROVED) | {"label_emb.weight": torch.zeros(1000, 128)}
    with pytest.raises(
        ValueError, match=r"must be an unconditional network, got a class-conditional one \(1000 classes"
    ):
        load_openai(save(tmp_path, state), SCHEDULE)


def test_differences_name_the_tensor(tmp_path: Path) -> None:
    state = checkpoint(IMPROVED)
    without = {name: tensor for name, tensor in state.items() if name != "input_blocks.2.0.op.bias"}
    with pytest.raises(ValueError, match=r"1 differences: missing input_blocks.2.0.op.bias\."):
        load_openai(save(tmp_path, without), SCHEDULE)
    with pytest.raises(ValueError, match=r"1 differences: unexpected step\."):
        load_openai(save(tmp_path, state | {"step": torch.zeros(())}), SCHEDULE)
    wrong = state | {"middle_block.1.norm.weight": torch.zeros(65)}
    with pytest.raises(ValueError, match=r"1 differences: size mismatch for middle_block.1.norm.weight: .*\[65\]"):
        load_openai(save(tmp_path, wrong), SCHEDULE)


@pytest.mark.parametrize("name", ["time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"])
def test_tensors_that_say_the_architecture_must_be_there(tmp_path: Path, name: str) -> None:
    state = checkpoint(IMPROVED)
    with pytest.raises(ValueError, match=rf"{name} must be a tensor of two or more dimensions, got shape \(3,\)"):
        load_openai(save(tmp_path, state | {name: torch.zeros(3)}), SCHEDULE)
    state.pop(name)
    with pytest.raises(ValueError, match=rf"{name} must be a tensor of two or more dimensions, got no such tensor"):
        load_openai(save(tmp_path, state), SCHEDULE)


def test_fractional_multipliers(tmp_path: Path) -> None:
    state = checkpoint(IMPROVED)
    state["output_blocks.0.0.out_layers.3.weight"] = torch.zeros(40, 40, 3, 3)
    with pytest.raises(ValueError, match=r"widths of its levels must be multiples of 32 channels, got \[32, 64, 40\]"):
        load_openai(save(tmp_path, state), SCHEDULE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"must hold a state dict, got list of length 2"),
        ({}, r"must hold a state dict, got dict of length 0"),
        ({"a": 1}, r"must hold a state dict of tensors, got int in 'a'"),
        ({"conv.weight": torch.zeros(3, 3)}, r"time_embed.0.weight must be a tensor.*no such tensor"),
        ({"time_embed.0.weight": torch.zeros(128, 32)}, r"output_blocks.0.0.out_layers.3.weight must be a tensor"),
    ],
)
def test_not_a_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_openai(save(tmp_path, content), SCHEDULE)


class Evil:
    """Unpickled without `weights_only` this would leave a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_never_unpickles_code(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(pickle.dumps(Evil(target), protocol=2))
    with pytest.raises(ValueError, match=r"must hold a state dict, got a file that cannot be read safely"):
        load_openai(path, SCHEDULE)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_broken_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"checkpoint{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must hold a state dict, got a file that cannot be read safely"):
        load_openai(path, SCHEDULE)
    with pytest.raises(FileNotFoundError, match=r"got .*absent.*no such file"):
        load_openai(tmp_path / f"absent{suffix}", SCHEDULE)
