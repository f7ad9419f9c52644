"""Every error class of the project; nothing heavy is imported."""


class StoppedBySignalError(Exception):
    """The run was asked to stop and has saved where it is; ``is_interrupt`` after Ctrl-C."""

    is_interrupt: bool = False


class StoppedAtOnce(BaseException):
    """A signal that ends a command where it is; no ``Exception``, which libraries catch."""


class FeatureLoadError(RuntimeError):
    """A feature network could not be built or its weights could not be had."""


class NonFiniteLossError(RuntimeError):
    """The training loss became infinite or NaN."""


class WorkerDiedError(RuntimeError):
    """A process that reads or decodes images died, most often for lack of memory."""
