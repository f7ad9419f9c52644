"""One training step of this project and of what a user would pick instead, on the same images.

Peers train as their own recipes say: diffusers' ``train_unconditional.py`` with its ``UNet2DModel`` of the same levels,
blocks, channels and attention as ours; denoising-diffusion-pytorch's ``Trainer`` with its own ``Unet`` of the same
channels; improved-diffusion's ``TrainLoop`` (only where its package can be imported: it is not on PyPI). All get
images that are already on the device, and the memory settings of ``probediff.commands.cpu``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from probediff.denoisers import UNet
from probediff.noise import TrainingDraws, keyed_global_randomness, training_draws
from probediff.training.module import DiffusionModule


@dataclass(frozen=True)
class Network:
    """Sizes of a U-Net, in this project's words."""

    image_size: int
    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    num_heads: int
    dropout: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """Of our ``UNet``, beside the image size."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "image_size"}

    def has_attention(self) -> list[bool]:
        """For each level, largest resolution first."""
        levels = range(len(self.channel_mult))
        return [self.image_size // 2**level in self.attention_resolutions for level in levels]


#: The published networks, and those of configs/cifar10_small.yaml and configs/patches.yaml.
NETWORKS = {
    "32 px": Network(32, 128, (1, 2, 2, 2), 3, (16, 8), 4, 0.3),
    "64 px": Network(64, 128, (1, 2, 3, 4), 3, (16, 8), 4),
    "small": Network(32, 32, (1, 2, 2), 1, (8,), 2),
}


@dataclass(frozen=True)
class Form:
    """How a network lies in memory, and the arguments of ``nn.Module.compile`` if it is compiled."""

    memory_format: torch.memory_format = torch.contiguous_format
    compile: dict[str, Any] | None = None

    def apply(self, whole: nn.Module, network: nn.Module) -> None:
        """Lay out all of ``whole`` and compile the ``network`` in it."""
        whole.to(memory_format=self.memory_format)
        if self.compile is not None:
            network.compile(**self.compile)


#: How networks are trained where nothing else is asked for, by the type of the device.
USUAL_FORM = {"cpu": Form(), "cuda": Form(compile={})}


@dataclass(frozen=True)
class Contender:
    """Something that trains.

    Attributes:
        network: (B, 3, H, W) noised images and (B,) timesteps -> prediction.
        gflop_per_image: of one forward pass.
        step: one whole training step on the images it was made with.
    """

    network: nn.Module
    gflop_per_image: float
    step: Callable[[], None]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.network.parameters())


def _gflop_per_image(network: nn.Module, x: Tensor) -> float:
    """Of one forward pass; a compiled network cannot be counted."""
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(x[:1], torch.full((1,), 10, device=x.device))
    return flops.get_total_flops() / 1e9


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


class Training:
    """``DiffusionModule`` as ``configs/cifar10.yaml`` trains it, without Lightning around it.

    Args:
        sizes: of the network.
        x_0: (B, 3, H, W) the images of every step, on the device to work on.
        precision: ``float32`` or ``bfloat16``.
        form: layout and compilation.
        capturable: whether the optimiser's work may be captured in a CUDA graph.
    """

    def __init__(self, sizes: Network, x_0: Tensor, precision: str, form: Form, capturable: bool = False) -> None:
        self.module = DiffusionModule(UNet(sizes.image_size, 3, 6, **sizes.arguments()), random_flip=True).to(
            x_0.device
        )
        self.gflop_per_image = _gflop_per_image(self.module.eps_model, x_0)
        form.apply(self.module, self.module.eps_model.unet)
        parameters = self.module.eps_model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True, capturable=capturable)
        self.x_0, self.precision, self.number = x_0, precision, 0

    def draws(self) -> TrainingDraws:
        """The random numbers of the next step."""
        self.number += 1
        return training_draws(0, self.number, self.x_0, len(self.module.schedule))

    def dropout(self) -> AbstractContextManager[None]:
        """What the step's dropout is drawn in."""
        return keyed_global_randomness(self.x_0.device, 0, self.number, "dropout", 0)

    def learn(self, draws: TrainingDraws) -> None:
        """Loss, gradients, optimiser and averages of a step."""
        module = self.module
        x = torch.where(draws.flip[:, None, None, None], self.x_0.flip(-1), self.x_0)
        with _autocast(x.device, self.precision):
            loss = module.loss(module.eps_model.output, module.schedule, x, draws.timestep, draws.eps).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        module.ema.update(module.eps_model, self.number)

    def step(self) -> None:
        """One whole step."""
        draws = self.draws()
        with self.dropout():
            self.learn(draws)


def probediff(sizes: Network, x_0: Tensor, precision: str, form: Form | None = None) -> Contender:
    """Our own training step."""
    training = Training(sizes, x_0, precision, form or USUAL_FORM[x_0.device.type])
    return Contender(training.module.eps_model, training.gflop_per_image, training.step)


def diffusers(sizes: Network, x_0: Tensor, precision: str, form: Form | None = None) -> Contender:
    """``examples/unconditional_image_generation/train_unconditional.py``, without Accelerate around it."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    down = ["AttnDownBlock2D" if has else "DownBlock2D" for has in sizes.has_attention()]
    widths = [mult * sizes.channels for mult in sizes.channel_mult]
    network = UNet2DModel(
        sample_size=sizes.image_size,
        layers_per_block=sizes.num_res_blocks,
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
        attention_head_dim=widths[1] // sizes.num_heads,
        resnet_time_scale_shift="scale_shift",
        dropout=sizes.dropout,
    ).to(x_0.device)
    gflop = _gflop_per_image(network, x_0)
    (form or USUAL_FORM[x_0.device.type]).apply(network, network)
    scheduler = DDPMScheduler(1000)
    ema = EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, model_cls=UNet2DModel
    )
    ema.to(x_0.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)

    def step() -> None:
        noise = torch.randn_like(x_0)
        timestep = torch.randint(0, 1000, (len(x_0),), device=x_0.device)
        noised = scheduler.add_noise(x_0, noise, timestep)
        with _autocast(x_0.device, precision):
            predicted = network(noised, timestep).sample
        loss = functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(network.parameters())

    return Contender(network, gflop, step)


def denoising_diffusion_pytorch(sizes: Network, x_0: Tensor, precision: str) -> Contender:
    """The package's ``Trainer.train``, without Accelerate around it; its network has blocks of its own kind."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    network = Unet(
        sizes.channels,
        dim_mults=sizes.channel_mult,
        full_attn=tuple(sizes.has_attention()),
        dropout=sizes.dropout,
        flash_attn=True,
    )
    diffusion = GaussianDiffusion(network, image_size=sizes.image_size).to(x_0.device)
    gflop = _gflop_per_image(network, x_0)
    USUAL_FORM[x_0.device.type].apply(network, network)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10).to(x_0.device)
    images = (x_0 + 1) / 2

    def step() -> None:
        with _autocast(x_0.device, precision):
            loss = diffusion(images)
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return Contender(network, gflop, step)


def improved_diffusion(sizes: Network, x_0: Tensor, precision: str) -> Contender:
    """``TrainLoop.run_step`` of the authors' recipe: float32 (its 16-bit mode is for GPUs), AdamW, averaged weights."""
    from improved_diffusion.nn import update_ema
    from improved_diffusion.resample import UniformSampler
    from improved_diffusion.script_util import create_gaussian_diffusion
    from improved_diffusion.unet import UNetModel

    if precision != "float32":
        raise ValueError(f"improved-diffusion trains in float32 here, got {precision}")
    network = UNetModel(
        in_channels=3,
        model_channels=sizes.channels,
        out_channels=6,
        num_res_blocks=sizes.num_res_blocks,
        attention_resolutions=tuple(sizes.image_size // size for size in sizes.attention_resolutions),
        dropout=sizes.dropout,
        channel_mult=sizes.channel_mult,
        num_heads=sizes.num_heads,
        use_scale_shift_norm=True,
    ).to(x_0.device)
    process = create_gaussian_diffusion(
        steps=4000, learn_sigma=True, noise_schedule="cosine", rescale_timesteps=True, rescale_learned_sigmas=True
    )
    sampler = UniformSampler(process)
    parameters = list(network.parameters())
    averaged = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)

    def step() -> None:
        timestep, weights = sampler.sample(len(x_0), x_0.device)
        losses = process.training_losses(network, x_0, timestep)
        optimizer.zero_grad()
        (losses["loss"] * weights).mean().backward()
        sum((p.grad**2).sum().item() for p in parameters if p.grad is not None)
        optimizer.step()
        update_ema(averaged, parameters, rate=0.9999)

    return Contender(network, _gflop_per_image(network, x_0), step)


#: Peers beside ours; improved-diffusion only where its code is.
PEERS: dict[str, Callable[[Network, Tensor, str], Contender]] = {
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
} | ({"improved-diffusion": improved_diffusion} if find_spec("improved_diffusion") else {})
