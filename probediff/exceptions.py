"""Every error class of the project, and errors in words; nothing heavy is imported."""


class StoppedBySignalError(Exception):
    """The run was asked to stop and has saved where it is; ``is_interrupt`` after Ctrl-C."""

    is_interrupt: bool = False


class StoppedAtOnce(BaseException):
    """A signal that ends a command where it is; no ``Exception``, which libraries catch."""


class PassFailedError(RuntimeError):
    """The shared pass failed on some of several processes; it is raised on all of them."""


class FeatureLoadError(RuntimeError):
    """A feature network could not be built or its weights could not be had."""


class NonFiniteLossError(RuntimeError):
    """The training loss became infinite or NaN."""


class WorkerDiedError(RuntimeError):
    """A process that reads or decodes images died, most often for lack of memory."""


def describe_failure(error: BaseException) -> str:
    """Why something failed, for a record; also of errors that cannot say it."""
    try:
        text = str(error)
    except Exception:
        text = ""
    is_clear = text and isinstance(error, ValueError | PassFailedError)
    return text if is_clear else f"{type(error).__name__}: {text}".rstrip(": ")
