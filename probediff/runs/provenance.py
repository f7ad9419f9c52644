"""What a number depends on beside its configuration: versions, machine and git commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("probediff", "torch", "torchvision", "lightning", "wandb", "timm", "open_clip_torch")


def provenance() -> dict[str, str]:
    """Versions, machine and git commit that a number depends on."""
    import torch  # here, because light commands import this module

    versions = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"
    return versions | {"git_commit": _git_commit() or "not in a git checkout", "device": device}


def header() -> str:
    """The provenance as comments, for the head of a configuration."""
    return "".join(f"# {key}: {value}\n" for key, value in provenance().items())


def read_header(text: str) -> dict[str, str]:
    """What such comments say."""
    lines = (line[2:].partition(": ") for line in text.splitlines() if line.startswith("# "))
    return {key: value for key, colon, value in lines if colon}


def _git_commit() -> str | None:
    def git(*command: str) -> str:
        process = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True)
        return process.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
