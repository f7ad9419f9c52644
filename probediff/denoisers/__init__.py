"""Everything that predicts eps: networks, the closed-form Gaussian denoiser, published checkpoints."""

from probediff.denoisers.eps_model import EpsModel
from probediff.denoisers.gaussian import GaussianDenoiser
from probediff.denoisers.openai import load_openai
from probediff.denoisers.unet import UNet

__all__ = ["EpsModel", "GaussianDenoiser", "UNet", "load_openai"]
