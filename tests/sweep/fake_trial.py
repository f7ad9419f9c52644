"""A trial without training: takes its folder, counts steps at a given speed, saves and stops on SIGTERM.

Arguments: ``--KEY=VALUE`` with ``steps``, ``seconds`` a step, ``fail_at`` a step, ``refuse`` a ``key`` or a
``value``, and ``deaf`` to SIGTERM. After a step
it waits as long as the sweep's folder holds a file ``gate``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from probediff.sweep.lineage import claim_trial_folder, record_trial


def main() -> int:
    options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    if "refuse" in options:  # before anything is made, as `probediff fit` does
        of_key, of_value = (
            "unrecognized arguments: --refuse=key (did you mean a?)",
            'Parser key "refuse":\n  Expected an int',
        )
        print(f"usage: ...\nerror: {of_key if options['refuse'] == 'key' else of_value}", flush=True)
        return 2
    owning = ExitStack()
    folder = claim_trial_folder(owning)
    assert folder is not None
    record_trial(folder)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: None if "deaf" in options else asked.append(number))
    steps = int(options.get("steps", "3"))
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(f"trainer:\n  max_steps: {steps}\n")
    with (folder / "starts").open("a") as file:
        file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {time.monotonic()}\n")
    saved = [int(path.stem.removeprefix("step=")) for path in (folder / "checkpoints").iterdir()]
    for step in range(max(saved, default=0) + 1, steps + 1):
        time.sleep(float(options.get("seconds", "0.02")))
        write(folder, step, "training")
        (folder / "checkpoints" / f"step={step}.ckpt").touch()
        while (folder.parent / "gate").exists() and not asked:
            time.sleep(0.01)
        if step == int(options.get("fail_at", "-1")):
            print("the data are gone", flush=True)
            return 1
        if asked:
            return 75
    write(folder, steps, "run")
    with (folder / "starts").open("a") as file:
        file.write(f"end {time.monotonic()}\n")
    return 0


def write(folder: Path, step: int, probe: str) -> None:
    with (folder / "records.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "probe": probe, "values": {}, "conventions": {}}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
