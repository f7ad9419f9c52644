"""A run's configuration on the disk: its first form, which stays, and a line for every change when the run went on.

Both files begin with a checksum, because one that was cut short is often valid YAML of another run.
"""

import getpass
import hashlib
import math
import os
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from probediff.files import parse_yaml, read_bytes, whole_file
from probediff.files.plain_data import MOST_YAML_BYTES
from probediff.runs.provenance import header, provenance, read_header

CONFIG, HISTORY = "config.yaml", "config.history.yaml"
#: Key of a configuration that `probediff fit` did not write: how the model of the run is built again.
MODULE = "module"
#: Key in such a one: probes that are none of this package, by name.
FOREIGN = "probes"
_CHECKSUM = "# sha256 of what follows: "
_MOST_PARTS = 50
#: Variables of the environment whose values are secrets, as their names say.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 8


def write_config(run: Path, text: str) -> None:
    """Write a configuration as it runs, with versions and git commit as comments at its head; no history yet."""
    (run / HISTORY).unlink(missing_ok=True)
    _write(run / CONFIG, header() + text)


def refuse_secrets(text: str) -> None:
    """Raise ValueError, without the value, where a configuration holds that of a secret variable of the environment.

    ``${oc.env:WANDB_API_KEY}``, or a shell, puts it there; it would go into ``config.yaml`` and to W&B.
    """
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET and value in text:
            raise ValueError(
                f"the configuration must hold no secret, got the value of ${name}, which would be written into "
                f"{CONFIG} and logged: take it out; W&B and the hub read it from the environment themselves"
            )


def hide_secrets(text: str) -> str:
    """Words without the values of secret variables of the environment, by whose names they are replaced."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"${name}")
    return text


def read_first_config(run: Path) -> dict[str, Any]:
    """The configuration that the run began with; empty where there is none.

    Raises:
        ValueError: It is damaged.
    """
    content = _read(run / CONFIG)
    if content is None and not (run / CONFIG).is_file():
        return {}
    if not (content and isinstance(content, dict)):
        raise ValueError(f"{run / CONFIG} must hold a configuration, got none: it is damaged; restore it from a copy")
    return content


def read_config(run: Path) -> dict[str, Any]:
    """The configuration as it is now, after all changes; empty where there is none. Raises as `read_first_config`."""
    config = read_first_config(run)
    if not config:  # without its first form nothing is known
        return {}
    for entry in read_history(run):
        for key, change in entry["changed"].items():
            _set(config, key, change["to"])
    return config


def read_provenance(run: Path) -> dict[str, str]:
    """Versions, commit and machine from the head of the configuration."""
    path = run / CONFIG
    return read_header(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else {}


def has_checksum(path: Path) -> bool:
    """Whether a file begins with a checksum, as those of earlier versions do not."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(len(_CHECKSUM)) == _CHECKSUM


def read_history(run: Path) -> list[dict[str, Any]]:
    """What `append_history` wrote, oldest first.

    Raises:
        ValueError: The file is damaged.
    """
    content = _read(run / HISTORY)
    if content is None and not (run / HISTORY).is_file():
        return []
    if not (content and isinstance(content, list) and all(map(_is_entry, content))):
        raise ValueError(f"{run / HISTORY} must hold a list of changes, got something else; restore it from a copy")
    return content


def _is_entry(entry: Any) -> bool:
    changed = entry.get("changed") if isinstance(entry, dict) else None
    return isinstance(changed, dict) and all(
        isinstance(key, str) and key.count(".") < _MOST_PARTS and isinstance(change, dict) and "to" in change
        for key, change in changed.items()
    )


def append_history(run: Path, step: int, changed: Mapping[str, tuple[Any, Any]], **others: Any) -> None:
    """Add a line: who changed what, at which step of the training.

    Args:
        run: the folder.
        step: of the checkpoint that the run goes on from.
        changed: key -> (value before, value after).
        others: what else is to be known of this start, as plain types.
    """
    entry = {
        "step": step,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": _name_user(),
        "changed": {key: {"from": before, "to": after} for key, (before, after) in changed.items()},
        **others,
        "provenance": provenance(),
    }
    lines = (yaml.safe_dump(line, default_flow_style=True, width=math.inf) for line in [*read_history(run), entry])
    _write(run / HISTORY, "".join(f"- {line}" for line in lines))


def _name_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no such user on this machine, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(config.get(parent), dict):
            config[parent] = {}
        config = config[parent]
    config[last] = value


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(f"{_CHECKSUM}{_digest(text)}\n{text}".encode())


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        text = read_bytes(path, MOST_YAML_BYTES).decode()
        first, _, rest = text.partition("\n")
        # Earlier versions wrote no checksum.
        if first.startswith(_CHECKSUM) and first.removeprefix(_CHECKSUM) != _digest(rest):
            raise ValueError("its checksum must be that of its content, got another: damaged, cut or changed")
        return parse_yaml(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; restore it from a copy") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
