"""The options of ``probediff whitening``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = argparse.ArgumentParser(
        prog="probediff whitening",
        description="Is the first step of a model a de-whitening? The noises that P2's iteration finds for images, "
        "against ZCA and other whitenings of them, after several numbers of iterations, beside the Gaussian denoiser "
        "of the same data. MODEL is what `probediff probe` takes. The same command goes on where it was stopped.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="run folder, checkpoint, state dict, or diffusers pipeline")
    add("--reference", metavar="FOLDER", help="images for the covariance (those of the run)")
    add("--images", metavar="FOLDER", help="images whose noises are made (those for the covariance)")
    add("--num_images", type=int, help="images for the covariance (all)")
    add("--num_fixed_points", type=int, help="images whose noises are made (twice the number of values of an image)")
    add(
        "--denoiser",
        choices=("network", "gaussian"),
        default="network",
        help="the network with the Gaussian denoiser beside it (default), or the Gaussian denoiser alone",
    )
    add("--timestep", type=float, default=0.98, help="of the iteration, as a share of T (0.98)")
    add(
        "--shown_timesteps",
        type=float,
        nargs="+",
        default=[0.2, 0.4, 0.6, 0.8, 0.9, 0.98],
        metavar="SHARE",
        help="of figure 3, as shares of T",
    )
    add("--iterations", default="1,3,10,30,100,300,1000", help="numbers of iterations (1,3,10,30,100,300,1000)")
    add("--start", choices=("zero", "noise"), default="zero", help="of the iteration: zero (default) or white noise")
    add("--tolerance", type=float, default=0.0, help="an image is finished at a change below this (0: never)")
    add("--ridge", type=float, default=0.0, help="share of the mean variance added to every pixel's (0)")
    add("--num_steps", default="100", help="steps of the full DDIM map, also several: 10,100,1000 (100)")
    add("--num_samples", type=int, default=1000, help="samples compared with their noises (1000)")
    add("--num_shown", type=int, default=8, help="images in pictures (8)")
    add("--convention", choices=("openai", "diffusers"), help="of DDIM; the model's own by default")
    add("--checkpoints", default="last", help="of a run: last (default), or a training step")
    add("--weights", choices=("ema", "raw"), default="ema", help="averaged weights (default) or raw")
    add("--ema_rate", type=float, help="which average; the first by default")
    add("--noise_seed", type=int, default=420, help="seed of the noises of the samples (420)")
    add("--batch_size", type=int, default=64, help="images per network evaluation (64)")
    add("--schedule", choices=("cosine", "linear"), help="of a state dict")
    add("--num_train_timesteps", type=int, help="of a state dict: T")
    add("--num_heads", type=int, help="of a state dict: attention heads")
    add("--device", help="cuda, cuda:1 or cpu (cuda where there is one)")
    add("--out", metavar="DIR", help="folder of the results (RUN/probes/whitening)")
    return parser


def share_list(shares: Sequence[float]) -> Sequence[float]:
    """The shares themselves.

    Raises:
        ValueError: one outside (0, 1].
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong:
        raise ValueError(f"timesteps must be shares of T above 0 and at most 1, got {wrong[0]}; P2 uses 0.98")
    return shares
