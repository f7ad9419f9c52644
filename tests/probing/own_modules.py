"""LightningModules as others write them, and what `probediff fit` trains, the same weights at each step."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from probediff.denoisers import EpsModel
from probediff.diffusion import hybrid_loss
from probediff.models import ProbeModel, wrap_network
from probediff.models.base import Weights
from probediff.noise import keyed_global_randomness, training_draws
from probediff.schedule import NoiseSchedule
from tests.conftest import tiny_module

T = 40
SHAPE = (1, 8, 8)


class Plain(L.LightningModule):
    """A network, a loss, an optimiser; with Lightning's own averages, or without any."""

    def __init__(self, seed: int = 0, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.seed = seed  # of the order of images, for our data modules
        self.network = tiny_module(seed).eps_model.unet
        self.schedule = NoiseSchedule.cosine(T)

    def loss(self, batch: Tensor, step: int) -> Tensor:
        draws = training_draws(self.hparams["seed"], step, batch, T, self.global_rank, self.trainer.world_size)
        model = EpsModel(self.network, T)
        with keyed_global_randomness(self.device, self.hparams["seed"], step, "dropout", self.global_rank):
            return hybrid_loss(model.output, self.schedule, batch, draws.timestep, draws.eps).mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch, self.trainer.fit_loop.total_batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), self.hparams["learning_rate"], weight_decay=0.0, fused=True)

    def wrap(self, network: nn.Module, ema_rate: float | None = None) -> ProbeModel:
        return wrap_network(network, self.schedule, SHAPE, timestep_scale=1000 / T, ema_rate=ema_rate)

    def probe_model(self, weights: Weights, ema_rate: float | None) -> ProbeModel:
        return self.wrap(self.network)


class Manual(Plain):
    """Manual optimisation, whose steps return nothing, and an average by torch's swa_utils."""

    def __init__(self, seed: int = 0, learning_rate: float = 2e-3) -> None:
        super().__init__(seed, learning_rate)
        self.automatic_optimization = False
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.average.requires_grad_(False)  # or DDP waits for their gradients
        self.average.n_averaged.fill_(1)  # from the initial weights on, as our averages

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch, self.trainer.fit_loop.total_batch_idx))
        optimizer.step()
        self.average.update_parameters(self.network)

    def probe_model(self, weights: Weights, ema_rate: float | None) -> ProbeModel:
        return self.wrap(self.average.module, 0.9) if weights == "ema" else self.wrap(self.network)
