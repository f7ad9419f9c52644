"""Losses against improved-diffusion's own numbers, and against the definitions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from probediff.denoisers import EpsModel, UNet
from probediff.diffusion import hybrid_loss, predict_x_0, q_sample, simple_loss
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import (
    analytic_eps,
    analytic_output,
    formula_state_dict,
    hashed_images,
    hashed_normal,
    load_golden,
)

SCHEDULE = NoiseSchedule.cosine(4000)
GOLDEN = load_golden("losses")["cases"]
# The authors cast their coefficients to float32, which amplifies to 1e-4 where the variance is tiny.
TOLERANCE = {"float32": {"rtol": 2e-4, "atol": 1e-5}, "float64": {"rtol": 1e-7, "atol": 1e-9}}


def scaled(network: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, timestep: network(x, timestep.float() * (1000.0 / 4000))


def inputs(case: dict, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    timestep = torch.tensor(case["timestep"])
    shape = (len(timestep), *case["shape"])
    return hashed_images("x_0", shape).to(dtype), timestep, hashed_normal("eps", shape).to(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "loss"), [("analytic_output", hybrid_loss), ("analytic_eps", simple_loss)])
def test_losses_equal_improved_diffusion(name: str, loss: Callable[..., Tensor], dtype: str) -> None:
    case = GOLDEN[name]
    x_0, timestep, eps = inputs(case, getattr(torch, dtype))
    network = {"analytic_output": analytic_output, "analytic_eps": analytic_eps}[name]
    ours = loss(scaled(network), SCHEDULE, x_0, timestep, eps)
    torch.testing.assert_close(ours.double(), torch.tensor(case[dtype]["loss"]).double(), **TOLERANCE[dtype])


def test_hybrid_loss_of_the_published_network_equals_improved_diffusion() -> None:
    case = GOLDEN["unet_32"]
    unet = UNet(32).eval()
    unet.load_state_dict(formula_state_dict(unet.state_dict()))
    with torch.no_grad():
        ours = hybrid_loss(EpsModel(unet, 4000).output, SCHEDULE, *inputs(case))
    torch.testing.assert_close(ours, torch.tensor(case["float32"]["loss"]), rtol=1e-5, atol=1e-5)


def test_simple_loss_ignores_variance_channels() -> None:
    x_0, timestep, eps = inputs(GOLDEN["analytic_output"])
    with_variance = simple_loss(scaled(analytic_output), SCHEDULE, x_0, timestep, eps)
    assert torch.equal(with_variance, simple_loss(scaled(analytic_eps), SCHEDULE, x_0, timestep, eps))


def test_the_bound_does_not_move_the_mean() -> None:
    """The gradient of L_hybrid on the noise channels is that of L_simple; the variance channels get their own."""
    x_0, timestep, eps = inputs(GOLDEN["analytic_output"], torch.float64)
    output = scaled(analytic_output)(q_sample(SCHEDULE, x_0, timestep, eps), timestep).requires_grad_()
    (hybrid,) = torch.autograd.grad(hybrid_loss(lambda *_: output, SCHEDULE, x_0, timestep, eps).sum(), output)
    (simple,) = torch.autograd.grad(simple_loss(lambda *_: output, SCHEDULE, x_0, timestep, eps).sum(), output)
    torch.testing.assert_close(hybrid[:, :3], simple[:, :3])
    assert float(hybrid[:, 3:].abs().max()) > 0
    assert float(simple[:, 3:].abs().max()) == 0


def test_q_sample_and_predict_x_0_are_inverse() -> None:
    x_0, timestep, eps = inputs(GOLDEN["analytic_output"], torch.float64)
    x_t = q_sample(SCHEDULE, x_0, timestep, eps)
    assert x_t.std() > 0.5
    torch.testing.assert_close(predict_x_0(SCHEDULE, x_t, timestep, eps)[:-1], x_0[:-1], rtol=1e-8, atol=1e-8)


def test_q_sample_has_the_stated_moments() -> None:
    x_0 = torch.full((200_000, 1), 0.5, dtype=torch.float64)
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t = q_sample(SCHEDULE, x_0, torch.full((200_000,), 2000), eps)
    alpha_bar = float(SCHEDULE.alpha_bar[2000])
    assert float(x_t.mean()) == pytest.approx(0.5 * alpha_bar**0.5, abs=0.01)
    assert float(x_t.var()) == pytest.approx(1 - alpha_bar, abs=0.01)


def test_losses_are_finite_in_half_precision_outputs() -> None:
    x_0, timestep, eps = inputs(GOLDEN["analytic_output"])

    def half(x: Tensor, timestep: Tensor) -> Tensor:
        return scaled(analytic_output)(x, timestep).bfloat16()

    assert hybrid_loss(half, SCHEDULE, x_0, timestep, eps).dtype == torch.float32
    assert bool(torch.isfinite(hybrid_loss(half, SCHEDULE, x_0, timestep, eps)).all())


def test_bad_arguments() -> None:
    x_0, timestep, eps = inputs(GOLDEN["analytic_output"])
    with pytest.raises(ValueError, match="hybrid_loss needs a model with learned variance, 6 output channels, got 3"):
        hybrid_loss(scaled(analytic_eps), SCHEDULE, x_0, timestep, eps)
    with pytest.raises(ValueError, match="eps must have the shape of x_0"):
        simple_loss(scaled(analytic_eps), SCHEDULE, x_0, timestep, eps[:, :, :4])
    with pytest.raises(ValueError, match=r"timestep must hold one integer in 0\.\.3999 per image"):
        simple_loss(scaled(analytic_eps), SCHEDULE, x_0, timestep[:2], eps)
    with pytest.raises(ValueError, match="model must return at least 3 channels, got 1"):
        simple_loss(lambda x, t: x[:, :1], SCHEDULE, x_0, timestep, eps)
