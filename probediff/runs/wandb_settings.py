"""Where Weights & Biases gets a run: options first, then its environment variables, then defaults; all checked."""

import netrc
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

#: How long a server that answers nothing holds up the start of a run, unless WANDB_INIT_TIMEOUT says otherwise.
INIT_TIMEOUT_SEC = 30.0
PROJECT = "probediff"

WandbMode = Literal["auto", "online", "offline", "disabled"]
#: Variables of wandb that say what options say too, as keys of ``WandbSettings``.
_VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "tags": "WANDB_TAGS",
    "job_type": "WANDB_JOB_TYPE",
    "notes": "WANDB_NOTES",
}
_FOLDERS = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
_KEY, _MODE = "WANDB_API_KEY", "WANDB_MODE"
#: What wandb calls modes beside our names.
_OTHER_MODES = {"": "auto", "run": "online", "dryrun": "offline"}


@dataclass(frozen=True)
class WandbSettings:
    """Where Weights & Biases gets the run; what is not given is what W&B's environment variables say.

    Args:
        mode: ``auto`` goes online when a key and the server are there, else offline; ``disabled`` switches it off.
        project: W&B project; WANDB_PROJECT, or else probediff, by default.
        entity: W&B user or team; WANDB_ENTITY by default.
        name: name of the run; WANDB_NAME, or else the run folder's name, by default.
        group: group of the run; WANDB_RUN_GROUP, or else that of all seeds of the configuration, by default.
        tags: tags of the run; WANDB_TAGS by default.
        job_type: what the run is for, by which W&B groups runs too; WANDB_JOB_TYPE by default.
        notes: a description of the run; WANDB_NOTES by default.
    """

    mode: WandbMode = "auto"
    project: str | None = None
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] | None = None
    job_type: str | None = None
    notes: str | None = None


def from_environment(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the environment says of those ``settings`` that are not given, so that it is recorded as what it is."""
    found: dict[str, Any] = {
        key: os.environ[name] for key, name in _VARIABLES.items() if settings[key] is None and os.environ.get(name)
    }
    if "tags" in found:
        found["tags"] = [tag for tag in (part.strip() for part in found["tags"].split(",")) if tag]
    return found


def check_environment(settings: WandbSettings) -> None:
    """Raise ValueError for settings and environment variables that W&B would refuse, after hours perhaps."""
    # Imported where it is used: --help would wait a second for it.
    import wandb

    options = {f"--wandb.{key}": (name, getattr(settings, key)) for key, name in _VARIABLES.items()}
    options["--wandb.tags"] = "WANDB_TAGS", None if settings.tags is None else ",".join(settings.tags)
    variables = {name: (name, value) for name, value in os.environ.items() if name.startswith("WANDB_") and value}
    for shown, (name, value) in (variables | options).items():
        try:
            if value is not None and name != _KEY:
                wandb.Settings().update_from_env_vars({name: value})
        except (ValueError, wandb.errors.Error) as error:
            raise ValueError(f"{shown} must be {_what(error)}, got {value!r}; change it, or leave it out") from None
    if not float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_SEC) > 0:
        raise ValueError(
            f"WANDB_INIT_TIMEOUT must be seconds above 0, got {os.environ['WANDB_INIT_TIMEOUT']!r}; change or unset it"
        )
    for name in _FOLDERS:
        if (value := os.environ.get(name)) and not _is_writable(Path(value)):
            raise ValueError(f"{name} must be a folder that can be written to, got {value!r}; change it, or unset it")
    key = "" if settings.mode == "offline" else os.environ.get(_KEY, "")
    if key and (key != key.strip() or not key.isprintable() or " " in key or len(key) < 40):
        raise ValueError(
            f"{_KEY} must be a key of at least 40 characters without blanks, got one of {len(key)} characters; copy it "
            f"again, or unset it"
        )


def _what(error: Exception) -> str:
    """What W&B expected, from its message."""
    lines = [line.strip() for line in str(error).splitlines()]
    words = next((line for line in lines if "[type=" in line), lines[0]).partition(" [type=")[0]
    return words.removeprefix("Input should be ") if words.startswith("Input") else f"one that W&B takes ({words})"


def _is_writable(folder: Path) -> bool:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK) and not str(there).startswith("/proc")


def resolve_mode(mode: WandbMode) -> Literal["online", "offline", "disabled"]:
    """``auto`` made definite: WANDB_MODE if it is set, else online when there are a key and a server."""
    if mode != "auto":
        return mode
    preset = os.environ.get(_MODE, "").lower()
    preset = _OTHER_MODES.get(preset, preset)
    if preset not in get_args(WandbMode):
        known = ", ".join(get_args(WandbMode))
        raise ValueError(f"{_MODE} must be one of {known}, got {preset!r}; unset it, or give --wandb.mode")
    if preset != "auto":
        return preset  # type: ignore[return-value]
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    return "online" if _has_key(url) and _reachable(url) else "offline"


def _has_key(url: str) -> bool:
    if os.environ.get(_KEY):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(url: str) -> bool:
    parts = urlsplit(url)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True
