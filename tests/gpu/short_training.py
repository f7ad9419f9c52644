"""configs/cifar10.yaml until the time is up: stopped by SIGTERM at 60 % of it, and resumed.

    python -m tests.gpu.short_training --images FILE --out FOLDER [--device cpu] [--seconds 150] [--miniature]

The run itself lies in a temporary folder, for its checkpoints take most of a gigabyte each; records, configuration, the
last picture of samples and a summary come to FOLDER. Exit status 0 if both parts stopped as they should (status 75, or
0 at the end of the run) and the second went on from the first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STOPPED = 75
FIRST_PART = 0.6
#: What a run may take to stop: the rest of a step or of a probe batch, and a checkpoint.
STOPPING_SEC = 20.0
#: In the log once steps are taken. A signal before, while Python imports, would end the process as it ends any other.
SIGN_OF_WORK = "train/loss="
PATIENCE_SEC = 120.0
#: Beside configs/cifar10.yaml: probes that a short run has time for, and averages that forget the start.
SHORT = [
    *("--data.root", "null", "--data.download", "false", "--model.ema_warmup", "true", "--wandb.mode", "disabled"),
    *("--checkpoint_similarity.features", "[]", "--probing.schedule.named", "null"),
    *("--probing.schedule.steps", "[100,400,1000,2000,4000]"),
    *("--probing.settings.num_samples", "256", "--probing.settings.num_steps", "50"),
]
TINY = [
    *("--network.channels", "8", "--network.channel_mult", "[1,2]", "--network.num_res_blocks", "1"),
    *("--network.attention_resolutions", "[]", "--data.batch_size", "4", "--probing.schedule.steps", "[5,20]"),
    *("--probing.settings.num_samples", "12", "--probing.settings.num_steps", "2", "--probing.progress", "false"),
    *(
        "--trainer.enable_model_summary",
        "false",
    ),
]


def part(number: int, arguments: Sequence[str], seconds: float, out: Path, run_dir: Path) -> dict[str, Any]:
    """Train for ``seconds``, then ask the run to stop and wait for it."""
    start = time.monotonic()
    log_path = out / f"fit_{number}.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "probediff", "fit", *arguments], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, seconds))
            wait_for_work(process, log_path)
            asked_after = time.monotonic() - start
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOPPING_SEC)
        finally:
            process.kill()
            process.wait()
    whole = {"part": number, "status": process.returncode, "asked_to_stop_after_sec": asked_after}
    return whole | {"seconds": time.monotonic() - start, "checkpoints": [path.name for path in checkpoints(run_dir)]}


def wait_for_work(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the run takes steps, or ends, or patience does."""
    end = time.monotonic() + PATIENCE_SEC
    while process.poll() is None and time.monotonic() < end and SIGN_OF_WORK not in log.read_text(errors="replace"):
        time.sleep(0.5)


def checkpoints(run_dir: Path) -> list[Path]:
    """All of them, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step=*.ckpt"))


def keep(run_dir: Path, out: Path) -> None:
    """Copy what is small from the run."""
    pictures = sorted((run_dir / "pictures").glob("*fixed_noise_generation.samples.png"))
    for path in (run_dir / "records.jsonl", run_dir / "config.yaml", *pictures[-1:]):
        if path.exists():
            shutil.copy(path, out)


def train(arguments: Sequence[str], seconds: float, out: Path, run_dir: Path) -> bool:
    """Both parts; returns whether they went as they should."""
    end, parts = time.monotonic() + seconds - STOPPING_SEC / 2, []
    for number, share in ((1, FIRST_PART), (2, 1.0)):
        left = (end - time.monotonic()) * share
        resume = ["--resume", "auto"] if number == 2 else []
        parts.append(part(number, [*arguments, *resume], left, out, run_dir))
        keep(run_dir, out)
        with (out / "parts.jsonl").open("a") as file:
            file.write(json.dumps(parts[-1]) + "\n")
        print(json.dumps(parts[-1]), flush=True)
    first, second = parts
    stopped_well = all(p["status"] in (0, STOPPED) for p in parts)
    resumed = "going on from" in (out / "fit_2.log").read_text(errors="replace")
    return stopped_well and resumed and first["checkpoints"][-1:] <= second["checkpoints"][-1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="train_images.npy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--miniature", action="store_true", help="a tiny network and tiny probes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        arguments = ["--config", "configs/cifar10.yaml", "--data.arrays", str(options.images.resolve()), *SHORT]
        arguments += ["--run_dir", str(run_dir), f"--trainer.accelerator={options.device}"]
        arguments += TINY if options.miniature else []
        return 0 if train(arguments, options.seconds, options.out.resolve(), run_dir) else 1


if __name__ == "__main__":
    sys.exit(main())
