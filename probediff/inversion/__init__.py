"""Inversion methods side by side: one signature, chosen by name. Images to the noises that they were sampled from."""

from probediff.ddim import State
from probediff.inversion.compare import MethodRow, compare
from probediff.inversion.methods import invert, inverter, resample, sample, sampler
from probediff.inversion.problem import Problem
from probediff.inversion.settings import InversionSettings, Method

__all__ = [
    "InversionSettings",
    "Method",
    "MethodRow",
    "Problem",
    "State",
    "compare",
    "invert",
    "inverter",
    "resample",
    "sample",
    "sampler",
]
