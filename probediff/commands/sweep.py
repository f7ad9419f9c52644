"""Run all trials of a sweep file, the same one that `wandb sweep` takes (method grid).

With --local the trials run on this machine, without W&B. The command may be stopped at any time: Ctrl-C and SIGTERM
let the trials save, and the same command goes on with what is left; finished trials are skipped. Without --local it
prints the two commands that run the sweep through W&B.

Examples:
  probediff sweep sweeps/smoke.yaml --local
  probediff sweep sweeps/seeds.yaml --local --num_parallel 3
  probediff sweep sweeps/seeds.yaml

Compare the trials: probediff report runs/sweep-seeds
"""

import argparse
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from probediff.commands.runner import light_parser, run_command
from probediff.runs.wandb_settings import PROJECT
from probediff.sweep.expand import count_trials
from probediff.sweep.file import read_sweep

_THROUGH_WANDB = """{name} has {trials}. Through W&B:

  wandb sweep --project {project} {path}
  wandb agent --forward-signals --term-timeout 600 ENTITY/PROJECT/SWEEP_ID

The first command prints the id for the second one, which may run on several machines at once."""
_WITHOUT_WANDB = """ Without W&B:

  probediff sweep {path} --local"""


def build_parser() -> argparse.ArgumentParser:
    """All options of the command."""
    parser = light_parser("sweep", __doc__)
    parser.add_argument("file", metavar="FILE", type=Path, help="sweep file, such as sweeps/seeds.yaml")
    parser.add_argument("--local", action="store_true", help="run the trials here, without W&B")
    parser.add_argument(
        "--num_parallel", type=int, metavar="N", help="trials at a time (default: one for each GPU, else 1)"
    )
    parser.add_argument(
        "--folder", type=Path, help="folder of the sweep, new or one to go on with (default: runs/sweep-<file name>)"
    )
    return parser


def sweep(arguments: Sequence[str]) -> int:
    """``probediff sweep``: returns the exit status."""
    return run_command(build_parser(), arguments, _sweep)


def _sweep(options: argparse.Namespace) -> int:
    description = read_sweep(options.file, options.local)
    if not options.local:
        count = count_trials(description)
        trials = "1 trial" if count == 1 else f"{count or 'no fixed number of'} trials"
        text = _THROUGH_WANDB + (_WITHOUT_WANDB if description.method == "grid" else "")
        # As W&B takes them: the file first, which an option would set aside unsaid.
        project = shlex.quote(description.project or os.environ.get("WANDB_PROJECT") or PROJECT)
        print(text.format(name=options.file, path=shlex.quote(str(options.file)), trials=trials, project=project))
        return 0
    from probediff.sweep.plan import settle_plan
    from probediff.sweep.progress import summary
    from probediff.sweep.runner import LocalSweep

    gpus = visible_gpus()
    folder = options.folder or Path("runs") / f"sweep-{description.name}"
    num_parallel = max(1, len(gpus)) if options.num_parallel is None else options.num_parallel
    local = LocalSweep(settle_plan(description, folder), num_parallel, gpus)
    status = local.run()
    print(summary(local.standings))
    if any(standing.state != "finished" for standing in local.standings):
        print("The same command goes on with what is not finished.")
    return status


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(listed.stdout.count("GPU "))]
