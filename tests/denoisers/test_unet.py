"""The U-Net and its wrapper: equal to the authors' networks, clear about wrong arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from probediff.denoisers import EpsModel, UNet
from probediff.denoisers.blocks import ResidualBlock
from tests.reference.golden_inputs import formula_state_dict, hashed_normal, load_golden

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 2,
    "out_channels": 4,
    "channels": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
}


def with_formula_weights(network: UNet) -> UNet:
    network.load_state_dict(formula_state_dict(network.state_dict()))
    return network.eval()


@pytest.fixture(scope="module")
def small() -> UNet:
    return with_formula_weights(UNet(**SMALL))


@pytest.fixture
def x() -> Tensor:
    return hashed_normal("x", (3, 2, 8, 8)).float()


@pytest.mark.parametrize(
    ("config", "image_size", "num_parameters", "dropout"),
    [("cifar10", 32, 52_546_438, 0.3), ("imagenet64", 64, 121_063_942, 0.0)],
)
def test_published_networks(config: str, image_size: int, num_parameters: int, dropout: float) -> None:
    arguments = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["network"]
    with torch.device("meta"):
        network = UNet(image_size, **arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {dropout}
    assert {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)} == {32}


@pytest.mark.parametrize(
    "case",
    [
        *("improved_32", "improved_lsun_like", "guided_legacy_order", "guided_new_order"),
        pytest.param("improved_64", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_equals_the_authors_network(case: str) -> None:
    golden = load_golden("unet")["cases"][case]
    with torch.device("meta"):
        network = UNet(**golden["ours"])
    network.load_state_dict(formula_state_dict(network.state_dict()), assign=True)
    timestep = torch.tensor(golden["timestep"])
    noised = hashed_normal("x", (len(timestep), 3, golden["size"], golden["size"])).float()
    output = network.eval()(noised, timestep)
    assert list(output.shape) == golden["output_shape"]
    thinned = output.flatten()[:: golden["stride"]]
    torch.testing.assert_close(thinned, torch.tensor(golden["output"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        output.abs().mean(dim=(0, 2, 3)), torch.tensor(golden["channel_mean_absolute"]), rtol=0, atol=1e-5
    )


def test_attention_orders_differ() -> None:
    # Otherwise the two golden cases could not tell one order from the other.
    cases = load_golden("unet")["cases"]
    difference = torch.tensor(cases["guided_legacy_order"]["output"]) - torch.tensor(
        cases["guided_new_order"]["output"]
    )
    assert difference.abs().max() > 0.1


def test_starts_as_published() -> None:
    network = UNet(**SMALL)
    zero = [name for name, value in network.state_dict().items() if name.endswith("weight") and not value.any()]
    assert "out.2.weight" in zero
    assert sum(name.endswith("proj_out.weight") for name in zero) == 4
    residual_blocks = sum(isinstance(module, ResidualBlock) for module in network.modules())
    assert sum(name.endswith("out_layers.3.weight") for name in zero) == residual_blocks == 8
    assert len(zero) == 13
    assert not network(torch.ones(1, 2, 8, 8), torch.tensor([3])).any()


@pytest.mark.parametrize("overrides", [{}, {"resblock_updown": True, "new_attention_order": True}])
def test_every_parameter_gets_a_gradient(overrides: dict[str, Any], x: Tensor) -> None:
    network = with_formula_weights(UNet(**{**SMALL, **overrides}))
    network(x, torch.tensor([1.0, 2.0, 3.0])).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


@given(
    channels=st.sampled_from([8, 12, 20]),
    mult=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    num_res_blocks=st.integers(1, 2),
    updown=st.booleans(),
    height=st.integers(2, 3),
    width=st.integers(1, 3),
    batch=st.integers(1, 3),
)
@settings(max_examples=8, deadline=None, derandomize=True)
@torch.no_grad()
def test_shapes_and_independent_samples(
    channels: int, mult: list[int], num_res_blocks: int, updown: bool, height: int, width: int, batch: int
) -> None:
    divisor = 2 ** (len(mult) - 1)
    network = with_formula_weights(
        UNet(
            divisor,
            in_channels=1,
            out_channels=2,
            channels=channels,
            channel_mult=tuple(mult),
            num_res_blocks=num_res_blocks,
            attention_resolutions=(1,),
            resblock_updown=updown,
        )
    ).double()
    # In double precision, because groups of two nearly equal pixels magnify rounding.
    noised = hashed_normal("x", (batch, 1, height * divisor, width * divisor)).double()
    timestep = torch.arange(batch) * 100
    output = network(noised, timestep)
    assert output.shape == (batch, 2, height * divisor, width * divisor)
    torch.testing.assert_close(output[-1:], network(noised[-1:], timestep[-1:]), rtol=0, atol=1e-9)


@torch.no_grad()
def test_channels_last_gives_the_same(small: UNet, x: Tensor) -> None:
    timestep = torch.tensor([1, 2, 3])
    expected = small(x, timestep)
    network = UNet(**SMALL).to(memory_format=torch.channels_last).eval()
    network.load_state_dict(small.state_dict())
    output = network(x.to(memory_format=torch.channels_last), timestep)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_autocast_to_bfloat16(small: UNet, x: Tensor) -> None:
    timestep = torch.tensor([10.0, 500.0, 999.0])
    expected = small(x, timestep)
    with torch.autocast("cpu", torch.bfloat16):
        output = small(x, timestep)
    assert output.dtype == torch.bfloat16
    assert not torch.equal(output.float(), expected)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.1)


@torch.no_grad()
def test_double_precision(small: UNet, x: Tensor) -> None:
    timestep = torch.tensor([10.0, 500.0, 999.0])
    network = UNet(**SMALL).double().eval()
    network.load_state_dict(small.state_dict())
    output = network(x.double(), timestep)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output.float(), small(x, timestep), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("updown", [False, True])
@torch.no_grad()
def test_compiles_without_graph_breaks(updown: bool, x: Tensor) -> None:
    network = EpsModel(with_formula_weights(UNet(**SMALL, resblock_updown=updown)), 4000)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    timestep = torch.tensor([0, 1234, 3999])
    torch.testing.assert_close(compiled(x, timestep), network(x, timestep), rtol=0, atol=1e-5)


@torch.no_grad()
def test_dropout_acts_in_training_only(x: Tensor) -> None:
    network = with_formula_weights(UNet(**SMALL, dropout=0.5))
    timestep = torch.zeros(3)
    expected = network(x, timestep)
    assert torch.equal(network(x, timestep), expected)
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(network.train()(x, timestep), expected)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"image_size": 9}, r"image_size must be divisible by 2 for the 2 levels of channel_mult, got 9"),
        ({"image_size": 0}, r"image_size must be at least 1, got 0"),
        ({"in_channels": 0}, r"in_channels must be at least 1, got 0"),
        ({"out_channels": -3}, r"out_channels must be at least 1, got -3"),
        ({"channels": 0}, r"channels must be at least 1, got 0"),
        ({"num_res_blocks": 0}, r"num_res_blocks must be at least 1, got 0"),
        ({"num_heads": 0}, r"num_heads must be at least 1, got 0"),
        ({"num_head_channels": 0}, r"num_head_channels must be at least 1, got 0"),
        ({"channel_mult": ()}, r"channel_mult must be one positive whole number a level, got \(\)"),
        ({"channel_mult": (1, 0)}, r"channel_mult must be one positive whole number a level, got \(1, 0\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"num_heads": 5}, r"num_heads must divide the 32 channels of an attention level, got 5"),
        ({"num_head_channels": 24}, r"num_head_channels must divide the 32 channels of an attention level, got 24"),
        (
            {"attention_resolutions": (16, 4)},
            r"attention_resolutions must be among \[8, 4\] at image_size 8, got \[16\]",
        ),
    ],
)
def test_wrong_arguments(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **argument})


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 3, 8, 8), (3, 2, 7, 8), (3, 2, 8, 5)])
def test_wrong_image_shape(small: UNet, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must be \(B, 2, H, W\) with H and W divisible by 2, got \("):
        small(torch.zeros(shape), torch.zeros(shape[0]))


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_wrong_timestep_shape(small: UNet, x: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"timestep must be \(3,\), one a sample, got \("):
        small(x, torch.zeros(shape))
    with pytest.raises(ValueError, match=r"timestep must be \(3,\), one a sample, got \("):
        EpsModel(small, 4000)(x, torch.zeros(shape, dtype=torch.int64))


@torch.no_grad()
def test_eps_model_scales_timesteps_and_drops_the_variance(small: UNet, x: Tensor) -> None:
    model = EpsModel(small, num_train_timesteps=4000)
    timestep = torch.tensor([0, 1001, 3999])
    expected = small(x, torch.tensor([0.0, 250.25, 999.75]))
    assert torch.equal(model.output(x, timestep), expected)
    assert torch.equal(model(x, timestep), expected[:, :2])
    unscaled = EpsModel(small, num_train_timesteps=4000, rescale_timesteps=False)
    assert torch.equal(unscaled.output(x, timestep), small(x, timestep.float()))
    assert set(model.state_dict()) == {f"unet.{name}" for name in small.state_dict()}


def test_eps_model_wrong_arguments(small: UNet, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"num_train_timesteps must be at least 1, got 0"):
        EpsModel(small, 0)
    with pytest.raises(ValueError, match=r"unet.out_channels must be 2 \(eps\) or 4 \(eps and variance\).*got 3"):
        EpsModel(UNet(**{**SMALL, "out_channels": 3}), 10)
    with pytest.raises(TypeError, match=r"timestep must be int64 indices in 0..9, got torch.float32"):
        EpsModel(small, 10)(x, torch.zeros(3))
