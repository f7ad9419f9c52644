"""Processes of the command line that start at once: most of a test would be imports otherwise."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from probediff.__main__ import main

# They are forked from one that has imported everything, what our code imports only when it needs it included.
LATE = ["matplotlib.backends.backend_agg", "omegaconf", "sklearn.datasets"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["probediff.commands.fit", "probediff.commands.probe", "tests.commands.forked", *LATE])

Command = Callable[[Sequence[str]], int]


def _work(command: Command, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    # Lightning reads the rank when it is imported, which was before there was one.
    rank_zero_only.rank = int(environment.get("RANK", 0))
    torch.set_num_threads(1)
    sys.exit(command(arguments))


def start(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, command: Command = main
) -> ForkServerProcess:
    """Start ``probediff`` with these arguments; what it prints is appended to ``log``."""
    process = CONTEXT.Process(target=_work, args=(command, arguments, log, environment or {}))
    process.start()
    return process


def wait(process: ForkServerProcess) -> int | None:
    """The exit status, when it has ended; None for one that did not end in time."""
    process.join(timeout=300)
    status = process.exitcode
    process.kill()
    return status


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start_together(
    arguments: Sequence[str], log: Path, count: int, num_nodes: int = 1, command: Command = main
) -> list[ForkServerProcess]:
    """Start so many processes on each node, with the environment that torchrun gives to its own."""
    shared = {
        "WORLD_SIZE": str(count * num_nodes),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "test",
    }
    processes = []
    for rank in range(count * num_nodes):
        node, local = divmod(rank, count)
        place = {"RANK": str(rank), "GROUP_RANK": str(node), "LOCAL_RANK": str(local)}
        processes.append(start(arguments, log, shared | place, command))
    return processes
