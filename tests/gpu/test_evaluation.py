"""One evaluation of the network in every precision, beside float64. Limits are several times what an H100 showed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from probediff.noise import seeded_noise
from tests.gpu.conftest import Record
from tests.gpu.scale import NUM_TRAIN_TIMESTEPS, Scale, eps_model, relative_difference, tf32

#: Relative L2 error: measured 1.1e-6, 7.8e-4 and 1.1e-2.
LIMITS = {"float32": 5e-6, "tf32": 4e-3, "bfloat16": 5e-2}


def inputs(scale: Scale) -> tuple[Tensor, Tensor]:
    timestep = torch.arange(scale.batch_size) * (NUM_TRAIN_TIMESTEPS // scale.batch_size)
    return seeded_noise(1, range(scale.batch_size), scale.image_shape), timestep


@pytest.fixture
def exact(scale: Scale) -> Tensor:
    x, timestep = inputs(scale)
    return eps_model(scale.network).double()(x.double(), timestep)


@pytest.mark.parametrize("precision", LIMITS)
def test_error_beside_float64(precision: str, scale: Scale, exact: Tensor, record: Record) -> None:
    model = eps_model(scale.network).to(scale.device)
    x, timestep = (tensor.to(scale.device) for tensor in inputs(scale))
    autocast = torch.autocast(scale.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with tf32(precision == "tf32"), autocast:
        error = relative_difference(model(x, timestep), exact)
    record(error=error)
    assert error < LIMITS[precision]
    if scale.on_gpu and precision != "float32":
        assert error > 10 * LIMITS["float32"], "the precision that was asked for is not the one that was used"


def test_error_as_torch_is_set_up(scale: Scale, exact: Tensor, record: Record) -> None:
    """Unless told otherwise torch lets cuDNN round float32 convolutions to TF32."""
    x, timestep = (tensor.to(scale.device) for tensor in inputs(scale))
    error = relative_difference(eps_model(scale.network).to(scale.device)(x, timestep), exact)
    record(error=error, tf32_convolutions=torch.backends.cudnn.allow_tf32)
    assert error < LIMITS["tf32" if torch.backends.cudnn.allow_tf32 else "float32"]


def test_channels_last_is_as_exact(scale: Scale, exact: Tensor, record: Record) -> None:
    model = copy.deepcopy(eps_model(scale.network)).to(scale.device, memory_format=torch.channels_last)
    x, timestep = (tensor.to(scale.device) for tensor in inputs(scale))
    with tf32(False):
        error = relative_difference(model(x.contiguous(memory_format=torch.channels_last), timestep), exact)
    record(error=error)
    assert error < LIMITS["float32"]


def test_rows_do_not_depend_on_the_batch(scale: Scale, record: Record) -> None:
    """Beyond rounding; not to the bit, for libraries choose their algorithms by the size of the batch."""
    model = eps_model(scale.network).to(scale.device)
    x, timestep = (tensor.to(scale.device) for tensor in inputs(scale))
    size = scale.batch_size // 3
    with tf32(False):
        whole = model(x, timestep)
        parts = [model(a, t) for a, t in zip(x.split(size), timestep.split(size), strict=True)]
    difference = relative_difference(torch.cat(parts), whole)
    record(difference=difference)
    assert difference < LIMITS["float32"]
