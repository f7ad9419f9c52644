"""Names of earlier versions in configurations."""

import functools
import re
import sys
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.utilities import rank_zero_only

from probediff import callbacks

_OLD_CALLBACK = re.compile(r"(--[\w.]+\+?=)?(callbacks\.(\w+)[\w.]*)")


def rename_callbacks(value: Any) -> Any:
    """``callbacks.X`` anywhere in a configuration, or as an option, is ``probediff.callbacks.X`` today."""
    if isinstance(value, dict):
        return {key: rename_callbacks(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rename_callbacks(part) for part in value]
    match = _OLD_CALLBACK.fullmatch(value) if isinstance(value, str) else None
    # Somebody's own package of the same name keeps its name.
    if match is None or not hasattr(callbacks, match[3]):
        return value
    _announce(match[2])
    return f"{match[1] or ''}probediff.{match[2]}"


@functools.cache
@rank_zero_only
def _announce(old: str) -> None:
    # Not among what --print_config prints.
    print(f"{old} is called probediff.{old} now: please change it in the configuration", file=sys.stderr)


def accept_old_names(parser_mode: str) -> None:
    """Let parsers of this mode read configurations of earlier versions."""
    load = get_loader("yaml")
    set_loader(parser_mode, lambda text: rename_callbacks(load(text)), (yaml.YAMLError,))
