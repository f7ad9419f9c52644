"""The base class of probes that are handed to a Lightning trainer."""

import lightning as L

from probediff import probing


class Probe(probing.Probe, L.Callback):
    """A probe that may stand among a trainer's callbacks, where ``Probing`` finds it; it has no hook of its own."""
