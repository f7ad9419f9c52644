"""`make gpu-proof`: what only a GPU can show, in so many minutes, the most valuable first.

    python -m tests.gpu.proof [--out build/gpu-proof] [--minutes 9] [--wheels FOLDER] [--device cpu --miniature]

Four stages, each a process with a time limit and files of its own in the folder; what one of them runs into does not
keep the next from running:

    checks    tests/gpu on the device: precision, determinism, waiting, graphs, measures, inversion methods
    resume    the tests of training, resuming and probing with the accelerator set to the device
    steps     milliseconds a training step beside diffusers and the best rate of the device
    training  configs/cifar10.yaml until the time is up, stopped by SIGTERM on the way and resumed

Nothing is downloaded. Real images are found through PROBEDIFF_DATA; packages that are missing here are taken from a
folder of wheels. The exit status is 0 if every stage ended well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: Of the time, what the training gets at least, and how much of the rest the first two stages may take, in seconds.
TRAINING_SHARE = 0.33
LONGEST_SEC = {"checks": 110.0, "resume": 110.0}
SHARES = {"checks": 0.26, "resume": 0.24}
#: Training of a miniature; it may take longer where the machine is busy.
MINIATURE_SEC = 80.0
#: Status of a stage that reached its limit, as of the command `timeout`.
TIMED_OUT = 124
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "--durations=8", "-vv", "-rs"]
RESUME_TESTS = ["tests/commands/test_resume.py", "tests/callbacks/test_coordinator.py", "tests/training"]


@dataclass(frozen=True)
class Stage:
    """A part of the proof.

    Attributes:
        name: also of its log.
        command: arguments of Python, given the seconds that it has.
        limit: the seconds that it may take, given those that are left.
        variables: of its environment, beside those of all.
    """

    name: str
    command: Callable[[float], list[str]]
    limit: Callable[[float], float]
    variables: dict[str, str] = field(default_factory=dict)


def stages(out: Path, images: Path, total: float, device: str, miniature: bool) -> list[Stage]:
    """All of them, in order."""
    # Killing a run over and over takes minutes.
    checks, resume, workers = "not proof", "not random_moments", (4, 10)
    if miniature:  # a part of each: the usual tests do them all on the CPU
        checks, resume, workers = "noise or evaluation", "do_not_change_training", (0, 0)
    check_workers, resume_workers = (min(number, os.cpu_count() or 1) for number in workers)
    marker = "gpu" if device == "cuda" else "slow"
    check = [*PYTEST, f"-n{check_workers}", "--dist=worksteal", "-m", marker, "tests/gpu", "-k", checks]
    on_device = ["--device", device, *(["--miniature"] if miniature else [])]

    def steps(seconds: float) -> list[str]:
        return ["-m", "tests.gpu.steps", "--out", str(out / "steps.jsonl"), *on_device, "--seconds", f"{seconds:.0f}"]

    def training(seconds: float) -> list[str]:
        seconds = min(seconds - 5, MINIATURE_SEC if miniature else seconds)
        paths = ["--images", str(images / "train_images.npy"), "--out", str(out / "training")]
        return ["-m", "tests.gpu.short_training", *paths, *on_device, "--seconds", f"{seconds:.0f}"]

    return [
        Stage(
            "checks",
            lambda _: check,
            lambda left: min(left, LONGEST_SEC["checks"], SHARES["checks"] * total),
            {"PROBEDIFF_GPU_FIGURES": str(out / "checks.jsonl")},
        ),
        Stage(
            "resume",
            lambda _: [*PYTEST, f"-n{resume_workers}", *RESUME_TESTS, "-k", resume],
            lambda left: min(left, LONGEST_SEC["resume"], SHARES["resume"] * total),
            {"PROBEDIFF_TEST_ACCELERATOR": device},
        ),
        Stage("steps", steps, lambda left: left - TRAINING_SHARE * total),
        Stage("training", training, lambda left: left),
    ]


def has_gpu() -> bool:
    """Whether torch finds a CUDA device; asked in another process, for this one imports nothing heavy."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Python with ``arguments`` in a process group of its own; what it prints goes to ``log``."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_stage(name: str, arguments: list[str], limit: float, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run one stage to its end or to its limit; returns its line of the summary."""
    begin, status = time.monotonic(), TIMED_OUT
    process = start(arguments, out / f"{name}.log", environment)
    try:
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(timeout=max(1.0, limit))
    finally:
        end_group(process)
    seconds = round(time.monotonic() - begin, 1)
    return {"stage": name, "status": status, "limit_sec": round(limit, 1), "seconds": seconds, "arguments": arguments}


def environment_of(wheels: Path | None, scratch: Path) -> dict[str, str]:
    """Variables of all stages; wheels are unpacked beside what is installed."""
    paths = [str(ROOT)]
    if wheels is not None:
        paths.append(str(scratch / "wheels"))
        options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", paths[-1]]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, *sorted(map(str, wheels.glob("*.whl")))], check=True
        )
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "HF_HUB_OFFLINE": "1",
    }


def write_summary(out: Path, lines: list[dict[str, Any]]) -> None:
    """Everything so far."""
    (out / "summary.json").write_text(json.dumps(lines, indent=1) + "\n")


def prove(out: Path, minutes: float, device: str, miniature: bool, wheels: Path | None) -> bool:
    """All stages; returns whether all ended well."""
    total = 60 * minutes
    end = time.monotonic() + total
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        environment = environment_of(wheels, Path(scratch))
        if miniature:  # tiny tensors are faster on one core, above all where others are busy
            environment["OMP_NUM_THREADS"] = "1"
        images = Path(scratch) / "images"
        # Unpacking takes a while, but one core only.
        unpacking = start(["-m", "tests.gpu.real_images", str(images)], out / "images.log", environment)
        try:
            for stage in stages(out, images, total, device, miniature):
                left = end - time.monotonic()
                if stage.name == "training":
                    with suppress(subprocess.TimeoutExpired):
                        unpacking.wait(timeout=left / 3)
                limit = stage.limit(end - time.monotonic())
                variables = environment | stage.variables
                lines.append(run_stage(stage.name, stage.command(limit), limit, out, variables))
                write_summary(out, lines)
                print(f"{stage.name}: status {lines[-1]['status']} after {lines[-1]['seconds']} s", flush=True)
        finally:
            end_group(unpacking)
    return all(line["status"] == 0 for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu-proof"), help="where the results go, as they come")
    parser.add_argument("--minutes", type=float, default=9, help="for everything together")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use beside what is installed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--miniature", action="store_true", help="small sizes, to see that the proof itself works")
    options = parser.parse_args()
    # A polite end of everything, also when the proof itself is asked to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.device == "cuda" and not has_gpu():
        print("torch finds no CUDA device here; a miniature on the CPU: --device cpu --miniature", file=sys.stderr)
        return 1
    proven = prove(out, options.minutes, options.device, options.miniature, options.wheels)
    print(f"results: {out}", flush=True)
    return 0 if proven else 1


if __name__ == "__main__":
    sys.exit(main())
