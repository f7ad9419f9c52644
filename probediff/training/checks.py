"""What is tried of a network, an optimiser and its schedule before a training begins with them."""

import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import probediff
from probediff.denoisers import EpsModel, UNet
from probediff.models.base import undisturbed
from probediff.noise import seeded_noise

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


def shape_of_images(network: nn.Module, image_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """(C, H, W) of the images that a network is for.

    Raises:
        ValueError: it is no network, or its images are not known.
    """
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise ValueError(f"--network must be a torch.nn.Module with parameters to train, got {type(network).__name__}")
    if isinstance(network, UNet):
        return network.in_channels, network.image_size, network.image_size
    if image_shape is None:
        raise ValueError(f"image_shape must be given for {type(network).__name__}, (C, H, W) of the images, got none")
    channels, height, width = image_shape
    return channels, height, width


def check_network(eps_model: EpsModel, image_shape: tuple[int, int, int], loss: str) -> None:
    """Try a network that is not probediff's own on two images, and whether its output is what the loss needs.

    Raises:
        ValueError: it takes no images and timesteps, or makes something else of them than finite predictions.
    """
    network, channels = eps_model.unet, image_shape[0]
    if isinstance(network, UNet):
        out_channels = network.out_channels
    else:
        weight = next(network.parameters())
        timestep = torch.tensor([0, eps_model.num_train_timesteps - 1], device=weight.device)
        with undisturbed(network):
            x = seeded_noise(0, range(2), image_shape).to(weight)
            before = x.clone()
            try:
                output = eps_model.output(x, timestep)
            except Exception as error:  # somebody else's code may raise anything
                words = f"{type(error).__name__}: {' '.join(str(error).split())}{_place(error)}"
                raise ValueError(f"--network must {_task(network, image_shape)}, got {words}") from error
        if not torch.equal(x, before):
            raise ValueError(
                f"--network must leave its input as it is, got {type(network).__name__}, which writes into it: "
                "samplers go on with what they gave it; let it work on a copy"
            )
        if not output.isfinite().all():
            raise ValueError(f"--network must {_task(network, image_shape)}, got numbers that are not finite")
        out_channels = output.shape[1]
    if loss == "hybrid" and out_channels != 2 * channels:
        raise ValueError(
            f"loss 'hybrid' needs a network with {2 * channels} output channels (noise and variance), got "
            f"{out_channels}; use loss 'simple' (--model.loss simple) for a network without variance channels"
        )


def _task(network: nn.Module, image_shape: tuple[int, int, int]) -> str:
    channels, height, width = image_shape
    return (
        f"predict the noise, (B, {channels} or {2 * channels}, {height}, {width}), from images (B, {channels}, "
        f"{height}, {width}) and timesteps (B,); {type(network).__name__} was tried on two"
    )


def _place(error: Exception) -> str:
    """The last line of somebody else's code on the way to an error, where there is one."""
    ours = [str(Path(package.__file__).parent) for package in (torch, probediff) if package.__file__]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(tuple(ours))]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def check_factories(optimizer: OptimizerFactory | None, lr_scheduler: SchedulerFactory | None) -> None:
    """Make an optimiser of one parameter and the schedule of its learning rate, which moves on once.

    Raises:
        ValueError: they refuse their arguments, or a schedule follows anything but the loss.
    """
    made: Optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "--optimizer"
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule moves on before the optimiser has
        try:
            if optimizer is not None:
                made = optimizer([nn.Parameter(torch.zeros(1))])
            name = "--lr_scheduler"
            scheduler = None if lr_scheduler is None else lr_scheduler(made)
            if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
        except Exception as error:  # a class of one's own may raise anything
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"{name} must be made with arguments that it takes, got {words}") from error
    if isinstance(scheduler, ReduceLROnPlateau) and (monitor := getattr(scheduler, "monitor", None)) != "train/loss":
        raise ValueError(
            f"--lr_scheduler.monitor must be train/loss, got {monitor}; the class that has it is "
            "lightning.pytorch.cli.ReduceLROnPlateau"
        )
