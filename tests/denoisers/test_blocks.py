"""The U-Net's blocks: equal to torch's own attention and to closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probediff.denoisers.blocks import AttentionBlock, group_norm, timestep_embedding
from tests.reference.golden_inputs import formula_state_dict, hashed_normal


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_equals_torch_multihead_attention(new_order: bool) -> None:
    channels, heads, head = 12, 3, 4
    block = AttentionBlock(channels, heads, new_order).double()
    block.load_state_dict({k: v.double() for k, v in formula_state_dict(block.state_dict()).items()})
    image = hashed_normal("image", (2, channels, 3, 5))
    weight, bias = block.qkv.weight.squeeze(-1), block.state_dict()["qkv.bias"]
    if not new_order:
        rows = torch.arange(3 * channels).reshape(heads, 3, head).transpose(0, 1).flatten()
        weight, bias = weight[rows], bias[rows]
    tokens = block.norm(image).flatten(2).transpose(1, 2).transpose(0, 1)
    attended, _ = nn.functional.multi_head_attention_forward(
        tokens, tokens, tokens, channels, heads, weight, bias, None, None, False, 0.0,
        block.proj_out.weight.squeeze(-1), block.proj_out.bias,
    )  # fmt: skip
    expected = image + attended.permute(1, 2, 0).reshape(image.shape)
    torch.testing.assert_close(block(image), expected, rtol=1e-12, atol=1e-12)


def test_timestep_embedding() -> None:
    timestep = torch.tensor([0.0, 17.25, 999.0])
    embedding = timestep_embedding(timestep, 7)
    frequency = 10000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    angle = timestep.double()[:, None] * frequency
    expected = torch.cat([angle.cos(), angle.sin(), torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.double(), expected, rtol=0, atol=2e-4)
    assert torch.equal(timestep_embedding(torch.tensor([5]), 8), timestep_embedding(torch.tensor([5.0]), 8))


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (96, 32), (16, 16), (24, 24), (40, 20), (33, 11), (37, 1)])
def test_number_of_groups(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_attention_gradients_in_bfloat16() -> None:
    block = AttentionBlock(12, 3, False)
    block.load_state_dict(formula_state_dict(block.state_dict()))
    image, weight = (hashed_normal(name, (2, 12, 4, 4)).float() for name in ("image", "weight"))
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = (block(image) * weight).sum()
        gradients.append(torch.autograd.grad(loss, list(block.parameters())))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.03 * float(expected.abs().max()))
