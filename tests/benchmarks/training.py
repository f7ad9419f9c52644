"""Training steps: ours beside the peers', the share of the matrix-product rate, the memory."""

from __future__ import annotations

from typing import Any

import torch

from probediff.commands.cpu import set_up_cpu
from tests.benchmarks.contenders import NETWORKS, PEERS, Contender, probediff
from tests.benchmarks.harness import Figure, in_own_process, paired, peak_gib
from tests.benchmarks.machine import Product

#: Images a step.
_BATCH = {"cpu": {"32 px": 8, "64 px": 2, "small": 64}, "cuda": {"32 px": 128, "64 px": 128, "small": 512}}
#: Its network at 64 px has half the operations of ours and says nothing new.
_LEFT_OUT = ("denoising-diffusion-pytorch", "64 px")
#: Whose memory is measured, of the published networks in bfloat16.
_WEIGHED = ("probediff", "diffusers")
_PRECISIONS = ("float32", "bfloat16")
#: A backward pass costs two forward ones.
_PASSES = 3


def _images(size: int, batch: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(batch, 3, size, size, generator=generator) * 2 - 1).to(device)


def _contenders(network: str, precision: str, batch: int, device: torch.device) -> dict[str, Contender]:
    sizes = NETWORKS[network]
    x_0 = _images(sizes.image_size, batch, device)
    made = {"probediff": probediff(sizes, x_0, precision)}
    for name, build in PEERS.items():
        if (name != "improved-diffusion" or precision == "float32") and (name, network) != _LEFT_OUT:
            made[name] = build(sizes, x_0, precision)
    return made


def _fullest(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else peak_gib()


def memory_of(name: str, network: str, precision: str, batch: int, device_name: str) -> float:
    """GiB that three training steps of one contender take, beside what its imports took."""
    set_up_cpu()
    device, sizes = torch.device(device_name), NETWORKS[network]
    build = probediff if name == "probediff" else PEERS[name]
    build(NETWORKS["small"], _images(32, 1, device), precision).step()
    before = _fullest(device)
    made = build(sizes, _images(sizes.image_size, batch, device), precision)
    for _ in range(3):
        made.step()
    return _fullest(device) - before


def _memory(name: str, network: str, precision: str, batch: int, device_name: str) -> float | None:
    if precision != "bfloat16" or name not in _WEIGHED or network == "small":
        return None
    return in_own_process(memory_of, name, network, precision, batch, device_name)


def measure(network: str, device_name: str, rounds: int) -> list[dict[str, Any]]:
    """The figures of one network, of every contender in both precisions."""
    set_up_cpu()
    torch.manual_seed(0)
    device, batch = torch.device(device_name), _BATCH[device_name][network]
    both = {precision: _contenders(network, precision, batch, device) for precision in _PRECISIONS}
    products = {precision: Product.make(device, getattr(torch, precision)) for precision in _PRECISIONS}
    actions = {f"{name} {p}": c.step for p, found in both.items() for name, c in found.items()}
    seconds = paired(actions | {f"product {p}": product for p, product in products.items()}, device, rounds)
    figures = []
    for precision, found in both.items():
        for name, contender in found.items():
            took = seconds[f"{name} {precision}"]
            ratios = {}
            if name == "probediff":
                ratios = {other: seconds[f"{other} {precision}"] / took for other in found if other != name}
                alone = both["float32"].keys() - found.keys()
                ratios |= {f"{other}, float32": seconds[f"{other} float32"] / took for other in alone}
            achieved = _PASSES * contender.gflop_per_image * batch / took
            figures.append(
                Figure(
                    "training step",
                    f"{name}, {network}, {precision}, batch {batch}",
                    batch / took,
                    "images/s",
                    ratios,
                    achieved / (products[precision].gflop / seconds[f"product {precision}"]),
                    _memory(name, network, precision, batch, device_name),
                    f"{contender.parameters / 1e6:.1f} M weights, {contender.gflop_per_image:.2f} GFLOP forward",
                )
            )
    return [figure.__dict__ for figure in figures]
