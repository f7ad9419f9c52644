"""Probes without a framework: the pass that they share, what a probe is, and what happens with its results."""

from probediff.probing.probe import Probe, ProbeContext
from probediff.probing.runner import ProbeRunner
from probediff.probing.settings import PassSettings
from probediff.probing.shared_pass import ProbePass
from probediff.runs.results import ProbeResult

__all__ = ["PassSettings", "Probe", "ProbeContext", "ProbePass", "ProbeResult", "ProbeRunner"]
