"""A small network that was trained for seconds, and the Gaussian and nonlinear toys."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probediff.diffusion import simple_loss
from probediff.schedule import NoiseSchedule
from tests.conftest import make_once, tiny_module

NUM_TRAIN_TIMESTEPS = 40


@pytest.fixture(scope="session")
def digits() -> Tensor:
    return torch.as_tensor(load_digits().images).float()[:, None] / 8 - 1


def train(digits: Tensor) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = untrained_network()
    schedule = NoiseSchedule.cosine(NUM_TRAIN_TIMESTEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(200):
        x_0 = digits[torch.randint(len(digits), (32,), generator=generator)]
        timestep = torch.randint(NUM_TRAIN_TIMESTEPS, (32,), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        loss = simple_loss(model, schedule, x_0, timestep, eps).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.25
    return model


def untrained_network() -> nn.Module:
    return tiny_module(num_train_timesteps=NUM_TRAIN_TIMESTEPS).eps_model.eval()


@pytest.fixture(scope="session")
def network(digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """An eps_model for 8x8 digits, in eval mode."""

    def make(path: Path) -> None:
        path.mkdir()
        torch.save(train(digits).state_dict(), path / "weights.pt")

    model = untrained_network()
    weights = make_once(tmp_path_factory, "network", make) / "weights.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


@pytest.fixture(scope="session")
def network_float64(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).double()


@pytest.fixture(scope="session")
def digits_noise() -> Tensor:
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(5))
