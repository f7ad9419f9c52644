"""What this machine is and what it can do at best."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tests.benchmarks.harness import paired

_PACKAGES = ("torch", "lightning", "diffusers", "denoising-diffusion-pytorch", "wandb", "numpy")
_SIDE = {"cpu": 2048, "cuda": 8192}
_CONVOLVED = {"cpu": 8, "cuda": 256}
_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


def processor() -> str:
    """The name of the processor, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself."""
    info = Path("/proc/cpuinfo")
    return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))


@dataclass(frozen=True)
class Product:
    """A matrix product that is large enough to show the best rate; call it, and divide ``gflop`` by the seconds."""

    a: Tensor
    b: Tensor

    @classmethod
    def make(cls, device: torch.device, dtype: torch.dtype) -> Product:
        """Of random square matrices."""
        side = _SIDE[device.type]
        return cls(*(torch.randn(side, side, device=device).to(dtype) for _ in range(2)))

    def __call__(self) -> Tensor:
        return self.a @ self.b

    @property
    def gflop(self) -> float:
        """Operations, in billions."""
        return 2 * len(self.a) ** 3 / 1e9


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product."""
    product = Product.make(device, dtype)
    return product.gflop / paired({"product": product}, device, 9)["product"]


def convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a 3 x 3 convolution of 256 channels, the kind that the published networks consist of."""
    batch = _CONVOLVED[device.type]
    images = torch.randn(batch, 256, 32, 32, device=device).to(dtype)
    kernel = torch.randn(256, 256, 3, 3, device=device).to(dtype)
    gflop = 2 * batch * 32 * 32 * 256 * 256 * 9 / 1e9
    return gflop / paired({"convolution": lambda: conv2d(images, kernel, padding=1)}, device, 9)["convolution"]


def copy_rate(device: torch.device) -> float:
    """GB/s of a large copy, bytes read and written."""
    source = torch.zeros(_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / paired({"copy": lambda: target.copy_(source)}, device, 9)["copy"] / 1e9


def rates(device_name: str) -> dict[str, float]:
    """The limits that other figures are held against."""
    device = torch.device(device_name)
    kinds = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
    found = {f"{name}_gflops": matrix_rate(device, dtype) for name, dtype in kinds.items()}
    found |= {f"{name}_convolution_gflops": convolution_rate(device, kinds[name]) for name in ("float32", "bfloat16")}
    return found | {"copy_gb_per_second": copy_rate(device)}


def describe(device_name: str) -> dict[str, Any]:
    """Hardware and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "bfloat16_instructions": has_bfloat16(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": versions,
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if device_name == "cuda" else {})
