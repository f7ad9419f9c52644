"""How long a user waits: for help, and for the first training step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from tests.benchmarks.harness import Figure, paired

_STEP_DONE = "first training step done"


class FirstStep(L.Callback):
    """Says when the first training step is over."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Print once."""
        if trainer.global_step == 1:
            print(_STEP_DONE, flush=True)


def _run(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def _seconds_until(line: str, command: Sequence[str]) -> float:
    """From the start of ``command`` until it prints ``line``; it is stopped then."""
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "WANDB_MODE": "offline"},
    ) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            if line in printed:
                took = time.perf_counter() - start
                process.terminate()
                return took
    raise RuntimeError(f"{' '.join(command)} ended without saying {line!r}")


def measure(rounds: int) -> list[dict[str, Any]]:
    """Help, help of training beside the bare import of Lightning's command line, and the digits' first step."""
    seconds = paired(
        {
            "probediff --help": lambda: _run("-m", "probediff", "--help"),
            "python -c pass": lambda: _run("-c", "pass"),
            "probediff fit --help": lambda: _run("-m", "probediff", "fit", "--help"),
            "import of Lightning's CLI": lambda: _run("-c", "import lightning.pytorch.cli"),
        },
        torch.device("cpu"),
        rounds,
    )
    pairs = {"probediff --help": "python -c pass", "probediff fit --help": "import of Lightning's CLI"}
    figures = [
        Figure("start", case, seconds[case], "s", {other: seconds[other] / seconds[case]})
        for case, other in pairs.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "probediff", "fit", "--config", "configs/digits.yaml"]
        command += ["--run_dir", f"{folder}/run", "--trainer.callbacks+", "tests.benchmarks.startup.FirstStep"]
        took = _seconds_until(_STEP_DONE, command)
    note = "the probes of the untrained network included"
    figures.append(Figure("start", "first training step of configs/digits.yaml", took, "s", note=note))
    return [figure.__dict__ for figure in figures]
