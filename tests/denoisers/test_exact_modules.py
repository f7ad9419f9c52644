"""What all exact denoisers are as modules: gradients, autocast, few digits, loaded state."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from probediff.denoisers import ANALYTIC_OPTIONS, GaussianDenoiser, SmoothedEmpiricalDenoiser, analytic_denoiser
from probediff.schedule import NoiseSchedule
from tests.reference.golden_inputs import hashed_normal, smooth_images

SCHEDULE = NoiseSchedule.linear(1000)
IMAGES = smooth_images("modules", 9, 8).float()
TIMESTEP = torch.tensor([100, 400, 900])
X = hashed_normal("noised", (3, 3, 8, 8)).float()

Maker = Callable[[Tensor], nn.Module]
MAKERS: dict[str, Maker] = {
    "gaussian": lambda images: GaussianDenoiser.fit(images, SCHEDULE).to(images),
    "smoothed": lambda images: SmoothedEmpiricalDenoiser(images, 0.4, SCHEDULE),
    "mirrored": lambda images: SmoothedEmpiricalDenoiser(images, 0.4, SCHEDULE, mirrored=True),
    **{kind: lambda images, kind=kind: analytic_denoiser(kind, images, SCHEDULE) for kind in ANALYTIC_OPTIONS},
}
each_kind = pytest.mark.parametrize("kind", MAKERS)


@each_kind
def test_autocast_takes_no_digits(kind: str) -> None:
    model = MAKERS[kind](IMAGES)
    expected = model(X, TIMESTEP)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(X, TIMESTEP), expected)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fewer_digits_are_refused_and_x_may_have_them(kind: str, dtype: torch.dtype) -> None:
    model = MAKERS[kind](IMAGES)
    assert model(X.to(dtype), TIMESTEP).dtype == dtype
    with pytest.raises(TypeError, match=r"must be float32 or float64, got torch\.b?float16: leave out"):
        model.to(dtype)(X.to(dtype), TIMESTEP)


@each_kind
def test_a_loaded_state_is_all_there_is(kind: str) -> None:
    model, other = (MAKERS[kind](images) for images in (IMAGES, IMAGES.flip(2) * 0.7))
    other(X, TIMESTEP)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(X, TIMESTEP), model(X, TIMESTEP), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bandwidth", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_gradients_of_the_family(bandwidth: float, mirrored: bool) -> None:
    model = SmoothedEmpiricalDenoiser(IMAGES.double()[:, :1, :3, :3], bandwidth, SCHEDULE, mirrored)
    x = X.double()[:, :1, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x, TIMESTEP), (x,))
