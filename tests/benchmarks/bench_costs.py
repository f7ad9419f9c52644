"""Unit costs of a configuration on this machine, and what the whole run costs with them.

    python -m tests.benchmarks.bench_costs --config configs/imagenet64.yaml [--json FILE]

Times one training step and one network evaluation at a small batch, measures what a checkpoint and a stored set of
samples take, and multiplies with the schedule.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from probediff.callbacks import ProbeSchedule
from probediff.denoisers import UNet
from probediff.noise import TrainingDraws, training_draws
from probediff.runs.folder import RunFolder
from probediff.training.module import DiffusionModule

_SIZES = {"CIFAR10": 32, "ImageNet64": 64, "PreparedImages": 64}


def median_seconds(action: Any, repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def kept_for_backward(module: DiffusionModule, x_0: torch.Tensor, draws: TrainingDraws) -> int:
    """Bytes that the graph of one loss keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    n = len(x_0)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(x_0.device.type, torch.bfloat16),
    ):
        module.loss(module.eps_model.output, module.schedule, x_0, draws.timestep[:n], draws.eps[:n]).mean()
    return sum(kept.values())


def unit_costs(config: dict[str, Any], batch_size: int, repeats: int) -> dict[str, float]:
    image_size = _SIZES[config["data"]["class_path"].rpartition(".")[2]]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = DiffusionModule(UNet(image_size, 3, 6, **config["network"]), **config["model"]).to(device)
    parameters = list(module.eps_model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    x_0 = torch.zeros(batch_size, 3, image_size, image_size, device=device)
    draws = training_draws(0, 0, x_0, len(module.schedule))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = module.loss(module.eps_model.output, module.schedule, x_0, draws.timestep, draws.eps).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.ema.update(module.eps_model, 1)

    @torch.no_grad()
    def evaluate() -> None:
        module.eps_model(x_0, draws.timestep)

    with FlopCounterMode(display=False) as flops:
        evaluate()
    costs = {
        "parameters": float(sum(p.numel() for p in parameters)),
        "forward_gflop_per_image": flops.get_total_flops() / batch_size / 1e9,
        # The slope over the batch leaves out what does not grow with it: weights and their 16-bit copies.
        "activation_bytes_per_image": (
            kept_for_backward(module, x_0, draws) - kept_for_backward(module, x_0[:1], draws)
        )
        / (batch_size - 1),
        "training_step_seconds_per_image": median_seconds(step, repeats) / batch_size,
        "evaluation_seconds_per_image": median_seconds(evaluate, repeats) / batch_size,
    }
    return costs | file_costs(module, optimizer, config["probing"]["settings"], image_size)


def file_costs(
    module: DiffusionModule, optimizer: torch.optim.Optimizer, settings: dict[str, Any], image_size: int
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path).create()
        state = module.state_dict()
        torch.save({"state_dict": state, "optimizer_states": [optimizer.state_dict()]}, folder.checkpoint_path(0))
        torch.save({name: value.half() for name, value in state.items()}, folder.checkpoint_path(1))
        folder.save_samples(0, torch.zeros(settings["num_samples"], 3, image_size, image_size))
        sizes = [folder.checkpoint_path(0), folder.checkpoint_path(1), folder.sample_path(0)]
        full, weights, samples = (float(file.stat().st_size) for file in sizes)
    return {"full_checkpoint_bytes": full, "weights_checkpoint_bytes": weights, "samples_bytes": samples}


def totals(config: dict[str, Any], costs: dict[str, float]) -> dict[str, float]:
    steps, settings = config["trainer"]["max_steps"], config["probing"]["settings"]
    events = len(ProbeSchedule(**config["probing"]["schedule"]).until(steps))
    images = steps * config["data"]["init_args"]["batch_size"]
    evaluations = events * 2 * settings["num_steps"] * settings["num_samples"]
    hour = 3600
    return {
        "events": float(events),
        "training_exaflop": images * 3 * costs["forward_gflop_per_image"] / 1e9,
        "probing_exaflop": evaluations * costs["forward_gflop_per_image"] / 1e9,
        "training_hours": images * costs["training_step_seconds_per_image"] / hour,
        "probing_hours": evaluations * costs["evaluation_seconds_per_image"] / hour,
        "full_checkpoints_gb": events * costs["full_checkpoint_bytes"] / 1e9,
        "thinned_checkpoints_gb": (events * costs["weights_checkpoint_bytes"] + 3 * costs["full_checkpoint_bytes"])
        / 1e9,
        "samples_gb": events * costs["samples_bytes"] / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/imagenet64.yaml"))
    parser.add_argument("--batch_size", type=int, default=128 if torch.cuda.is_available() else 4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = yaml.safe_load(options.config.read_text())
    config["network"].setdefault("dropout", 0.0)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    costs = unit_costs(config, options.batch_size, options.repeats)
    result = {"device": device, "batch_size": options.batch_size, "unit": costs, "run": totals(config, costs)}
    for part in ("unit", "run"):
        for name, value in result[part].items():
            print(f"{part:<5} {name:<34} {value:,.4g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
