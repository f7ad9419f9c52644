"""Training of a denoising diffusion model; knows no probe."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from probediff.denoisers import EpsModel, UNet
from probediff.diffusion import hybrid_loss, simple_loss
from probediff.exceptions import NonFiniteLossError
from probediff.files.capacity import check_memory
from probediff.models.base import ProbeModel, Weights, conventions_of
from probediff.noise import keyed_global_randomness, training_draws
from probediff.schedule import NoiseSchedule, ScheduleName
from probediff.training.ema import AveragedWeights

_LOSSES = {"hybrid": hybrid_loss, "simple": simple_loss}
_CHECK_EVERY_N_STEPS = 50


class DiffusionModule(L.LightningModule):
    """A DDPM in training, by the recipe of Nichol & Dhariwal (2021), as in *There and Back Again*.

    Args:
        network: the U-Net, with twice as many output as input channels (noise and variance).
        loss: ``hybrid`` (L_simple + 0.001 L_vlb, learned variance) or ``simple`` (L_simple).
        schedule: ``cosine`` or ``linear``.
        num_train_timesteps: T, the number of timesteps of the diffusion process.
        rescale_timesteps: show the network ``timestep * 1000 / T`` instead of the timestep, as published.
        learning_rate: constant learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        ema_rates: rates of the averaged weights; probes use the first one unless told otherwise.
        ema_warmup: let the averaging rate rise from 0.1 as (1 + step) / (10 + step), for short runs.
        random_flip: flip each training image left to right with probability 1/2.
        compile: compile the network with torch.compile (checkpoint keys do not change).
        seed: key of all training randomness; follows ``seed_everything`` on the command line.
    """

    def __init__(
        self,
        network: UNet,
        loss: Literal["hybrid", "simple"] = "hybrid",
        schedule: ScheduleName = "cosine",
        num_train_timesteps: int = 4000,
        rescale_timesteps: bool = True,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        ema_rates: list[float] = [0.9999],  # noqa: B006 (read only; the command line shows the value)
        ema_warmup: bool = False,
        random_flip: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if loss not in _LOSSES:
            raise ValueError(f"loss must be one of {sorted(_LOSSES)}, got {loss!r}")
        if loss == "hybrid" and network.out_channels != 2 * network.in_channels:
            raise ValueError(
                f"loss 'hybrid' needs a network with {2 * network.in_channels} output channels (noise and variance), "
                f"got {network.out_channels}; use loss 'simple' for a network without variance channels"
            )
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}; 1e-4 is usual")
        if math.isinf(learning_rate):
            raise ValueError(f"learning_rate must be finite, got {learning_rate}; 1e-4 is usual")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be 0 or more and finite, got {weight_decay}; 0 is usual")
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        cure = "make the network smaller, or keep fewer averages"
        check_memory("the network and its averages", f"{len(ema_rates)} averages", size * (1 + len(ema_rates)), cure)
        self.schedule_name = schedule
        self.schedule = NoiseSchedule.from_name(schedule, num_train_timesteps)
        self.loss: Callable[..., Tensor] = _LOSSES[loss]
        self.image_shape = (network.in_channels, network.image_size, network.image_size)
        self.eps_model = EpsModel(network, num_train_timesteps, rescale_timesteps)
        self.ema = AveragedWeights(self.eps_model, ema_rates, ema_warmup)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_flip = random_flip
        self.compile_network = compile
        self.seed = seed
        self.last_checkpoint: Path | None = None
        self.register_buffer("_first_bad_step", torch.tensor(-1), persistent=False)
        self._first_bad_step: Tensor

    def probe_model(self, weights: Weights = "ema", ema_rate: float | None = None) -> ProbeModel:
        """The model as probes see it now: averaged weights (of ``ema_rate``, the first when None) or raw ones.

        Raises:
            ValueError: no average of that rate is kept.
        """
        raw = weights == "raw"
        eps_model = self.eps_model if raw else self.ema.model(ema_rate)
        rate = None if raw else ema_rate or self.ema.rates[0]
        conventions = conventions_of(eps_model, self.schedule_name, self.schedule, self.image_shape, ema_rate=rate)
        return ProbeModel(eps_model, self.schedule, self.image_shape, self.global_step, conventions)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a constant learning rate."""
        # Lightning cannot clip gradients for a fused optimiser under fp16 loss scaling.
        fused = self.trainer.precision != "16-mixed"
        parameters = self.eps_model.parameters()
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)

    def on_fit_start(self) -> None:
        """Check the precision; compile in place, which keeps the keys of the state dict."""
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise ValueError(
                f"trainer.precision must be 32-true, bf16-mixed, 16-mixed or 64-true, got {self.trainer.precision}: "
                f"averages at rates near 1 vanish in 16-bit weights; use bf16-mixed"
            )
        if self.compile_network:
            for model in (self.eps_model, *self.ema.models):
                cast(EpsModel, model).unet.compile()

    def on_train_start(self) -> None:
        """Apply learning rate and weight decay: those of a checkpoint may be others."""
        optimizer = self.optimizers()
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group.update(lr=self.learning_rate, weight_decay=self.weight_decay)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of one batch of images (B, C, H, W); all randomness follows from (seed, batches seen so far)."""
        step = self.trainer.fit_loop.total_batch_idx
        rank, world_size = self.global_rank, self.trainer.world_size
        draws = training_draws(self.seed, step, batch, len(self.schedule), rank, world_size)
        x_0 = torch.where(draws.flip[:, None, None, None], batch.flip(-1), batch) if self.random_flip else batch
        with keyed_global_randomness(self.device, self.seed, step, "dropout", rank):
            loss = self.loss(self.eps_model.output, self.schedule, x_0, draws.timestep, draws.eps).mean()
        self._watch(loss.detach())
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def _watch(self, loss: Tensor) -> None:
        """Remember the first step with a bad loss without waiting for the GPU; on a CPU stop at once."""
        bad = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(bad, self.trainer.global_step, self._first_bad_step)
        if self.device.type == "cpu" or self.trainer.global_step % _CHECK_EVERY_N_STEPS == 0:
            self.raise_if_not_finite()

    def raise_if_not_finite(self) -> None:
        """Stop the run if any loss so far was infinite or NaN.

        Raises:
            NonFiniteLossError: with the step, the last good checkpoint and what to try.
        """
        step = int(self._first_bad_step)
        if step >= 0:
            raise NonFiniteLossError(
                f"the training loss is not finite at step {step} (precision {self.trainer.precision}). "
                f"Last good checkpoint: {self.last_checkpoint or 'none yet'}. Try a smaller --model.learning_rate "
                f"(now {self.learning_rate:g}), --trainer.gradient_clip_val 1.0, --trainer.precision bf16-mixed or "
                f"32-true, and look at the training images."
            )

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step of the optimiser, then of the averages, so that callbacks see averages that include it."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.ema.update(self.eps_model, self.trainer.global_step)
