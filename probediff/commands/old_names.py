"""Names of earlier versions in configurations."""

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.utilities import rank_zero_only

from probediff import callbacks

_OLD_CALLBACK = re.compile(r"(--[\w.]+\+?=)?(callbacks(?:\.(\w+))?\.(\w+))")
#: Modules of today's classes that are called otherwise now.
_OLD_MODULES = ("probing", "schedule")


def rename_callbacks(value: Any) -> Any:
    """``callbacks.X`` anywhere in a configuration, or as an option, is ``probediff.callbacks.X`` today."""
    if isinstance(value, dict):
        return {key: rename_callbacks(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rename_callbacks(part) for part in value]
    match = _OLD_CALLBACK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    option, old, module, name = match.groups()
    # Somebody's own package of the same name keeps its name.
    if not hasattr(callbacks, name) or not (module in (None, *_OLD_MODULES) or hasattr(callbacks, module)):
        return value
    _announce(old, f"probediff.callbacks.{name}")
    return f"{option or ''}probediff.callbacks.{name}"


@functools.cache
@rank_zero_only
def _announce(old: str, new: str) -> None:
    # Not among what --print_config prints.
    print(f"{old} is called {new} now: please change it in the configuration", file=sys.stderr)


def accept_old_names(parser_mode: str, change: Callable[[Any], Any] | None = None) -> None:
    """Let parsers of this mode read configurations of earlier versions; ``change`` is made to what they read."""
    load = get_loader("yaml")

    def read(text: str) -> Any:
        config = rename_callbacks(load(text))
        return config if change is None else change(config)

    set_loader(parser_mode, read, (yaml.YAMLError,))
