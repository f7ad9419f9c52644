"""What a number depends on beside its configuration: versions, machine and git commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("probediff", "torch", "torchvision", "lightning", "wandb", "timm", "open_clip_torch")


def provenance() -> dict[str, str]:
    """Versions, machine and git commit that a number depends on."""
    found = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["git_commit"] = _git_commit() or "not in a git checkout"
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
    return found


def _git_commit() -> str | None:
    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
