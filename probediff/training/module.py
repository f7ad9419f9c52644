"""Training of a denoising diffusion model; knows no probe."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from probediff.denoisers import EpsModel, UNet
from probediff.diffusion import hybrid_loss, simple_loss
from probediff.exceptions import NonFiniteLossError
from probediff.files import read_checkpoint
from probediff.files.capacity import check_memory
from probediff.models.arguments import build_network
from probediff.models.base import ProbeModel, Weights, conventions_of
from probediff.noise import keyed_global_randomness, training_draws
from probediff.schedule import NoiseSchedule, ScheduleName
from probediff.training.checks import (
    OptimizerFactory,
    SchedulerFactory,
    check_factories,
    check_network,
    shape_of_images,
)
from probediff.training.ema import AveragedWeights

_LOSSES = {"hybrid": hybrid_loss, "simple": simple_loss}
_CHECK_EVERY_N_STEPS = 50


class DiffusionModule(L.LightningModule):
    """A DDPM in training, by the recipe of Nichol & Dhariwal (2021), as in *There and Back Again*.

    Args:
        network: ``(x, timestep) -> prediction`` of the noise; with twice as many channels, of the variance too.
        loss: ``hybrid`` (L_simple + 0.001 L_vlb, learned variance) or ``simple`` (L_simple).
        schedule: ``cosine``, ``linear``, or ``scaled_linear`` as of Stable Diffusion.
        num_train_timesteps: T, the number of timesteps of the diffusion process.
        rescale_timesteps: show the network ``timestep * 1000 / T`` instead of the timestep, as published.
        learning_rate: constant learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        ema_rates: rates of the averaged weights; probes use the first one unless told otherwise.
        ema_warmup: let the averaging rate rise from 0.1 as (1 + step) / (10 + step), for short runs.
        random_flip: flip each training image left to right with probability 1/2.
        compile: compile the network with torch.compile (checkpoint keys do not change).
        seed: key of all training randomness; follows ``seed_everything`` on the command line.
        image_shape: (C, H, W) of the images; probediff's U-Net knows it.
        optimizer: parameters -> optimiser, instead of AdamW, such as ``partial(torch.optim.SGD, lr=0.1)``.
        lr_scheduler: optimiser -> schedule of its learning rate, which moves on at every step of the optimiser.
    """

    def __init__(
        self,
        network: nn.Module,
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
        image_shape: tuple[int, int, int] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler"], logger=False)
        if loss not in _LOSSES:
            raise ValueError(f"loss must be one of {sorted(_LOSSES)}, got {loss!r}")
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
        self.image_shape = shape_of_images(network, image_shape)
        self.hparams["image_shape"] = self.image_shape
        if isinstance(network, UNet):
            self.hparams["network"] = {"class_path": "probediff.denoisers.UNet", "init_args": network.arguments}
        self.eps_model = EpsModel(network, num_train_timesteps, rescale_timesteps, in_channels=self.image_shape[0])
        check_network(self.eps_model, self.image_shape, loss)
        self.ema = AveragedWeights(self.eps_model, ema_rates, ema_warmup)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        check_factories(optimizer, lr_scheduler)
        if optimizer is not None and (learning_rate, weight_decay) != (1e-4, 0.0):
            warnings.warn(
                f"learning_rate {learning_rate:g} and weight_decay {weight_decay:g} of the model have no effect: the "
                "optimizer that was given has its own",
                stacklevel=2,
            )
        self._optimizer_factory = optimizer
        self._scheduler_factory = lr_scheduler
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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a constant learning rate, or what was given."""
        # Lightning cannot clip gradients for a fused optimiser under fp16 loss scaling.
        fused = self.trainer.precision != "16-mixed"
        optimizer, scheduler = self.make_optimizer([p for p in self.eps_model.parameters() if p.requires_grad], fused)
        if scheduler is None:
            return optimizer
        # Lightning moves those that follow a number on after checkpoints are saved, which would lack that step.
        each_step: Any = {"scheduler": scheduler, "interval": "step", "reduce_on_plateau": False}
        return {"optimizer": optimizer, "lr_scheduler": each_step}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Move a schedule on, after a step of the optimiser and before a checkpoint of it."""
        if isinstance(scheduler, ReduceLROnPlateau):
            # The loss of one process; all must have one learning rate.
            metric = self.trainer.strategy.reduce(self.trainer.callback_metrics["train/loss"], reduce_op="mean")
        super().lr_scheduler_step(scheduler, metric)

    def make_optimizer(
        self, parameters: list[nn.Parameter], fused: bool = False
    ) -> tuple[Optimizer, LRScheduler | None]:
        """The optimiser of these parameters, and the schedule of its learning rate; ``fused`` is for AdamW."""
        optimizer: Optimizer
        if self._optimizer_factory is None:
            rate, decay = self.learning_rate, self.weight_decay
            optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)
        else:
            optimizer = self._optimizer_factory(parameters)
        return optimizer, None if self._scheduler_factory is None else self._scheduler_factory(optimizer)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        strict: bool | None = None,
        network: nn.Module | None = None,
        trust: bool = False,
        **arguments: Any,
    ) -> Self:
        """The module of a checkpoint, whose code is never unpickled, by Lightning's own reader.

        Args:
            checkpoint_path: the file.
            map_location: where to put the weights, as ``torch.load`` takes it.
            strict: whether the weights must fit exactly; they must by default.
            network: an untrained network to fill; needed where it was not made by ``probediff fit``, or is not
                probediff's own and ``trust`` is not given.
            trust: import and run the class of the network that the checkpoint names, also if it is none of probediff.
            arguments: others of this class, instead of those in the checkpoint.

        Raises:
            ValueError: the file cannot be read, or names no network, or one that needs ``trust``.
        """
        settings = read_checkpoint(Path(checkpoint_path), mmap=True).get("hyper_parameters")
        if not (isinstance(settings, dict) or arguments):
            raise ValueError(
                f"{checkpoint_path} must hold the arguments of the module, got none: it is of an earlier version; read "
                "its model by probediff.models.load_checkpoint_model, or give network=... and the other arguments"
            )
        if network is None and not isinstance((settings or {}).get("network"), dict):
            raise ValueError(
                f"network must be given for {checkpoint_path}, which does not say how it was made, got none"
            )
        if network is None:
            network = build_network(settings["network"], f"the network of {checkpoint_path}", trust)
        # A stranger's checkpoint may name a function that makes the module, from classes that it names too.
        others = arguments | {"network": network, "_instantiator": None}
        return super().load_from_checkpoint(checkpoint_path, map_location, None, strict, weights_only=True, **others)

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
        if self._optimizer_factory is not None or self._scheduler_factory is not None:
            return
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
            rate = f"--model.learning_rate (now {self.learning_rate:g})"
            rate = rate if self._optimizer_factory is None else "--optimizer.lr"
            raise NonFiniteLossError(
                f"the training loss is not finite at step {step} (precision {self.trainer.precision}). "
                f"Last good checkpoint: {self.last_checkpoint or 'none yet'}. Try a smaller {rate}, "
                f"--trainer.gradient_clip_val 1.0, --trainer.precision bf16-mixed or 32-true, and look at the training "
                f"images."
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
