"""Options that the three commands share, and how each of them runs."""

from __future__ import annotations

import argparse
from typing import Any, get_args

import torch

from probediff.editing.noise_search import NoiseSearchSettings, SearchLoss

_SEARCH = NoiseSearchSettings()


def add_statistics(parser: argparse.ArgumentParser) -> None:
    """Where the whitening statistics come from."""
    group = parser.add_argument_group("whitening statistics, from one of these")
    group.add_argument("--run", metavar="RUN", help="the training images of a run")
    group.add_argument("--images", metavar="FOLDER", help="all images of a folder")
    group.add_argument("--statistics", metavar="FILE", help="what --save_statistics wrote")
    group.add_argument("--save_statistics", metavar="FILE", help="write them here (.safetensors) for the next time")
    group.add_argument("--num_images", type=int, help="images for them, evenly chosen (all)")
    group.add_argument("--ridge", type=float, default=0.0, help="share of the mean variance added to every value's (0)")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Of simulated annealing."""
    group = parser.add_argument_group("noise search")
    group.add_argument("--loss", choices=get_args(SearchLoss), default=_SEARCH.loss, help="what falls (forward)")
    group.add_argument(
        "--num_iterations", type=int, default=_SEARCH.num_iterations, help="proposals of each chain (%(default)s)"
    )
    for end in ("initial", "final"):
        default = getattr(_SEARCH, f"{end}_temperature")
        group.add_argument(f"--{end}_temperature", type=float, default=default, help="of annealing (%(default)s)")
    group.add_argument(
        "--step_size", type=float, default=_SEARCH.step_size, help="a in [0, 1), near 1 small steps (%(default)s)"
    )
    group.add_argument("--num_chains", type=int, default=4, help="noises for each image (%(default)s)")
    group.add_argument("--seed", type=int, default=_SEARCH.seed, help="of the search (%(default)s)")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How models are loaded and sampled."""
    group = parser.add_argument_group("models and sampling")
    group.add_argument("--num_steps", type=int, default=50, help="DDIM steps from noise to image (50)")
    group.add_argument("--convention", choices=("openai", "diffusers"), help="of DDIM; each model's own by default")
    group.add_argument("--prompt", default="", help="for text-to-image models")
    group.add_argument("--negative_prompt", default="", help="what guidance leads away from")
    group.add_argument(
        "--guidance_scale", type=float, default=7.5, help="of classifier-free guidance (7.5); 0 for Turbo models"
    )
    group.add_argument("--noise_seed", type=int, default=420, help="seed of the random noises (420)")
    group.add_argument("--batch_size", type=int, default=16, help="images per network evaluation (16)")
    add_weights(parser)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Which weights MODEL stands for."""
    group = parser.add_argument_group("weights")
    group.add_argument("--checkpoints", default="last", help="of a run: last (default), or a training step")
    group.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged weights (default) or raw")
    group.add_argument("--ema_rate", type=float, help="which average; the first by default")
    group.add_argument("--schedule", choices=("cosine", "linear"), help="of a state dict")
    group.add_argument("--num_train_timesteps", type=int, help="of a state dict: T")
    group.add_argument("--num_heads", type=int, help="of a state dict: attention heads")


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """Where it runs and what it leaves."""
    group = parser.add_argument_group("output")
    group.add_argument("--num_shown", type=int, default=8, help="images in pictures (8)")
    group.add_argument("--device", help="cuda, cuda:1 or cpu (cuda where there is one)")
    group.add_argument("--out", metavar="DIR", help=f"folder of the results ({default})")


def device_of(options: Any) -> torch.device:
    """The device that was asked for."""
    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def search_settings(options: Any) -> NoiseSearchSettings:
    """The settings of the search; raises ValueError as they do."""
    names = ("loss", "num_iterations", "initial_temperature", "final_temperature", "step_size", "num_chains", "seed")
    return NoiseSearchSettings(**{name: getattr(options, name) for name in names})


def check_counts(options: Any, *names: str) -> None:
    """Raise ValueError for an option that must be at least 1 and is not."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
