"""What the death of another process of the training looks like in this one, and what to do then."""

import traceback
from pathlib import Path

import torch

from probediff.exceptions import WorkerDiedError

#: How the libraries that processes talk by begin their messages.
_TRANSPORTS = ("gloo/", "NCCL", "ProcessGroup")


def explain_death(error: BaseException, run_dir: Path) -> WorkerDiedError | None:
    """The error with its cure where it is the death of another process; None where it is something else."""
    cure = f"go on with --run_dir {run_dir} --resume auto"
    if is_dead_data_worker(error):
        return WorkerDiedError(
            f"a process that reads data died; try --data.num_workers 0 or free some memory, and {cure} ({error})"
        )
    if is_dead_partner(error):
        return WorkerDiedError(f"another process of the training died or does not answer; {cure} ({error})")
    return None


def is_dead_data_worker(error: BaseException) -> bool:
    """Whether an error of training is the death of a process that reads data."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in str(error)
    # Death between the announcement of a batch and its fetching shows as a broken connection.
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ConnectionError | EOFError) and any("torch/utils/data" in f.filename for f in frames)


def is_dead_partner(error: BaseException) -> bool:
    """Whether an error of training is the death of a process that trains too."""
    if torch.distributed.is_available() and isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _TRANSPORTS)
