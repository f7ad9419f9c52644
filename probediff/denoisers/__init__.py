"""Everything that predicts eps: networks, the closed-form Gaussian denoiser, published checkpoints and pipelines."""

from probediff.denoisers.analytic import ANALYTIC_OPTIONS, analytic_denoiser
from probediff.denoisers.empirical import SmoothedEmpiricalDenoiser
from probediff.denoisers.gaussian import GaussianDenoiser
from probediff.denoisers.openai import OpenAICheckpoint, load_openai, load_openai_network, openai_eps_model
from probediff.denoisers.pipelines import Autoencoder, Pipeline, load_pipeline
from probediff.denoisers.predictions import EpsModel, PredictionModel
from probediff.denoisers.unet import UNet

__all__ = [
    "ANALYTIC_OPTIONS",
    "Autoencoder",
    "EpsModel",
    "GaussianDenoiser",
    "OpenAICheckpoint",
    "Pipeline",
    "PredictionModel",
    "SmoothedEmpiricalDenoiser",
    "UNet",
    "analytic_denoiser",
    "load_openai",
    "load_openai_network",
    "load_pipeline",
    "openai_eps_model",
]
