"""The diffusion process and its training losses: pure functions, the randomness is passed in.

Equation numbers refer to Nichol & Dhariwal 2021 (arXiv:2102.09672) and Ho et al. 2020 (arXiv:2006.11239).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from probediff.schedule import NoiseSchedule

EpsFunction = Callable[[Tensor, Tensor], Tensor]


def q_sample(schedule: NoiseSchedule, x_0: Tensor, timestep: Tensor, eps: Tensor) -> Tensor:
    """x_t ~ q(x_t | x_0) for given noise (Ho et al. eq. 4): (B, C, H, W) images, (B,) timesteps -> (B, C, H, W)."""
    alpha_bar = schedule.at("alpha_bar", timestep, x_0.ndim)
    return alpha_bar.sqrt().to(x_0.dtype) * x_0 + (1 - alpha_bar).sqrt().to(x_0.dtype) * eps


def predict_x_0(schedule: NoiseSchedule, x_t: Tensor, timestep: Tensor, eps_hat: Tensor) -> Tensor:
    """The clean image that ``eps_hat`` implies: (x_t - sqrt(1 - alpha_bar) eps_hat) / sqrt(alpha_bar)."""
    alpha_bar = schedule.at("alpha_bar", timestep, x_t.ndim)
    return (1 / alpha_bar).sqrt().to(x_t.dtype) * x_t - (1 / alpha_bar - 1).sqrt().to(x_t.dtype) * eps_hat


def _mean_per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _checked_inputs(schedule: NoiseSchedule, x_0: Tensor, timestep: Tensor, eps: Tensor) -> None:
    if x_0.shape != eps.shape:
        raise ValueError(f"eps must have the shape of x_0, {tuple(x_0.shape)}, got {tuple(eps.shape)}")
    if timestep.shape != x_0.shape[:1] or timestep.is_floating_point():
        raise ValueError(
            f"timestep must hold one integer in 0..{len(schedule) - 1} per image, shape ({len(x_0)},), "
            f"got shape {tuple(timestep.shape)} of {timestep.dtype}"
        )


def simple_loss(model: EpsFunction, schedule: NoiseSchedule, x_0: Tensor, timestep: Tensor, eps: Tensor) -> Tensor:
    """L_simple (Ho et al. eq. 14): mean squared error of the predicted noise, per sample.

    Args:
        model: ``(x_t (B,C,H,W), timestep (B,)) -> (B, C or 2C, H, W)``; channels beyond the first C are ignored.
        schedule: the noise schedule, T timesteps.
        x_0: (B, C, H, W) in [-1, 1].
        timestep: (B,) int64 in 0..T-1.
        eps: (B, C, H, W) standard normal noise.

    Returns:
        (B,) losses.
    """
    _checked_inputs(schedule, x_0, timestep, eps)
    output = model(q_sample(schedule, x_0, timestep, eps), timestep)
    if output.shape[1] < x_0.shape[1]:
        raise ValueError(f"model must return at least {x_0.shape[1]} channels, got {output.shape[1]}")
    return _mean_per_sample((eps - output[:, : x_0.shape[1]].to(eps.dtype)) ** 2)


def hybrid_loss(model: EpsFunction, schedule: NoiseSchedule, x_0: Tensor, timestep: Tensor, eps: Tensor) -> Tensor:
    """L_hybrid = L_simple + (T / 1000) L_vlb-term, per sample (Nichol & Dhariwal eq. 16).

    The term of the variational bound is in bits per dimension, its mean is held fixed (stop-gradient), and the factor
    T/1000 is the published lambda = 0.001 times the T terms of the bound.

    Args:
        model: ``(x_t, timestep) -> (B, 2C, H, W)``: predicted noise and the interpolation v of the log-variance.
        schedule: the noise schedule, T timesteps.
        x_0: (B, C, H, W) in [-1, 1].
        timestep: (B,) int64 in 0..T-1.
        eps: (B, C, H, W) standard normal noise.

    Returns:
        (B,) losses.

    Raises:
        ValueError: when shapes disagree or the model has no variance channels.
    """
    _checked_inputs(schedule, x_0, timestep, eps)
    x_t = q_sample(schedule, x_0, timestep, eps)
    output = model(x_t, timestep)
    channels = x_0.shape[1]
    if output.shape[1] != 2 * channels:
        raise ValueError(
            f"hybrid_loss needs a model with learned variance, {2 * channels} output channels, got {output.shape[1]}; "
            f"use simple_loss for a model without"
        )
    eps_hat, v = output.to(eps.dtype).split(channels, dim=1)
    bound = variational_bound_term(schedule, x_0, x_t, timestep, eps_hat.detach(), v)
    return _mean_per_sample((eps - eps_hat) ** 2) + bound * (len(schedule) / 1000)


def variational_bound_term(
    schedule: NoiseSchedule, x_0: Tensor, x_t: Tensor, timestep: Tensor, eps_hat: Tensor, v: Tensor
) -> Tensor:
    """L_{t} of the variational bound in bits per dimension, (B,) (Nichol & Dhariwal eq. 4-6, 15).

    KL between the true posterior q(x_{t-1} | x_t, x_0) and the model's for t > 0, the discretised Gaussian likelihood
    of 8-bit images for t = 0. The log-variance is interpolated by ``v`` between the posterior variance and beta.
    """
    alpha_bar = schedule.at("alpha_bar", timestep, x_0.ndim)
    beta = schedule.at("betas", timestep, x_0.ndim)
    alpha_bar_previous = alpha_bar / (1 - beta)
    # The posterior variance is 0 at t = 0; as published, the value of t = 1 stands in for its logarithm.
    first = schedule.betas[1] * (1 - schedule.alpha_bar[0]) / (1 - schedule.alpha_bar[1])
    is_first = (timestep == 0).reshape(beta.shape)
    variance = beta * (1 - alpha_bar_previous) / (1 - alpha_bar)
    log_true = torch.where(is_first, float(first.log()), variance.log()).to(x_0.dtype)
    fraction = (v + 1) / 2
    log_model = fraction * beta.log().to(x_0.dtype) + (1 - fraction) * log_true

    towards_x_0 = (beta * alpha_bar_previous.sqrt() / (1 - alpha_bar)).to(x_0.dtype)
    towards_x_t = ((1 - alpha_bar_previous) * (1 - beta).sqrt() / (1 - alpha_bar)).to(x_0.dtype)
    true_mean = towards_x_0 * x_0 + towards_x_t * x_t
    model_mean = towards_x_0 * predict_x_0(schedule, x_t, timestep, eps_hat) + towards_x_t * x_t

    divergence = _normal_kl(true_mean, log_true, model_mean, log_model)
    likelihood = _discretised_log_likelihood(x_0, model_mean, 0.5 * log_model)
    nats = torch.where(timestep == 0, -_mean_per_sample(likelihood), _mean_per_sample(divergence))
    return nats / math.log(2)


def _normal_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    difference = log_variance_2 - log_variance_1
    return 0.5 * (difference - 1 + torch.exp(-difference) + (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2))


def _discretised_log_likelihood(x_0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit images under a Gaussian integrated over each grey level (Ho et al. eq. 13).

    With the published tanh approximation of the normal distribution function.
    """

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    upper = cdf((x_0 - mean + 1 / 255) * torch.exp(-log_scale))
    lower = cdf((x_0 - mean - 1 / 255) * torch.exp(-log_scale))
    probability = torch.where(x_0 < -0.999, upper, torch.where(x_0 > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()
