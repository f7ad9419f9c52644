"""A whole probe event of N = 1,000 and 100 steps: the pass, the measures, and what share of a training it takes.

A run of the command line is probed after its last step with few DDIM steps; the pass and the distances along the
way are proportional to their number (see the growth table) and are scaled to 100, all else does not depend on it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from probediff.callbacks import ProbeSchedule
from tests.benchmarks.harness import Figure

NUM_SAMPLES, NUM_STEPS, _MEASURED_STEPS = 1000, 100, 3
_PER_STEP = ("pass_seconds", "trajectory_heatmap_seconds")


def measure() -> list[dict[str, Any]]:
    """The event of the small network: whole, and the measures' share of it."""
    from probediff.commands.fit import fit

    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (2000, 3, 32, 32), dtype=np.uint8)
        np.save(Path(folder) / "train_images.npy", images)
        arguments = ["--config", "configs/cifar10_small.yaml", "--run_dir", f"{folder}/run", "--trainer.max_steps", "1"]
        arguments += ["--data.root", "null", "--data.download", "false", "--data.arrays", folder]
        arguments += ["--probing.schedule.steps", "[]", "--probing.settings.num_samples", str(NUM_SAMPLES)]
        arguments += ["--probing.settings.num_steps", str(_MEASURED_STEPS), "--wandb.mode", "offline"]
        if fit(arguments):
            raise RuntimeError(f"the run failed: probediff fit {' '.join(arguments)}")
        records = [json.loads(line) for line in (Path(folder) / "run" / "records.jsonl").read_text().splitlines()]
    values = next(r["values"] for r in records if r["probe"] == "timing" and r["step"] == 1)
    scaled = {
        name: value * (NUM_STEPS / _MEASURED_STEPS if name in _PER_STEP else 1)
        for name, value in values.items()
        if name != "event_seconds"
    }
    whole = sum(scaled.values())
    measures = whole - scaled["pass_seconds"]
    sizes = f"small, N = {NUM_SAMPLES:,}, {NUM_STEPS} steps"
    longest = sorted(((name, value) for name, value in scaled.items() if name != "pass_seconds"), key=lambda x: -x[1])
    note = ", ".join(f"{name.removesuffix('_seconds')} {value:.2f} s" for name, value in longest)
    return [
        Figure(
            "probe event", f"{sizes}, all default probes", whole, "s", note=f"pass scaled from {_MEASURED_STEPS} steps"
        ).__dict__,
        Figure("probe event", f"{sizes}: the measures' share", 100 * measures / whole, "per cent", note=note).__dict__,
    ]


def shares(images_per_second: dict[str, float], evaluations_per_second: dict[str, float]) -> list[dict[str, Any]]:
    """What part of whole trainings their probe passes are, from the speeds of the sections before."""
    figures = []
    for network, config in (("small", "cifar10_small"), ("32 px", "cifar10"), ("64 px", "imagenet64")):
        if network not in images_per_second or network not in evaluations_per_second:
            continue
        options = yaml.safe_load(Path(f"configs/{config}.yaml").read_text())
        steps, settings = options["trainer"]["max_steps"], options["probing"]["settings"]
        events = len(ProbeSchedule(**options["probing"]["schedule"]).until(steps))
        event = 2 * settings["num_steps"] * settings["num_samples"] / evaluations_per_second[network]
        step = options["data"]["init_args"]["batch_size"] / images_per_second[network]
        share = 100 * events * event / (events * event + steps * step)
        note = f"{events} events of {event / step:,.0f} training steps' time each; 5 per cent at one event in "
        note += f"{20 * event / step:,.0f} steps"
        case = f"configs/{config}.yaml: the passes' share of the whole run"
        figures.append(Figure("probe event", case, share, "per cent", note=note).__dict__)
    return figures
