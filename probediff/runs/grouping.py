"""Runs that differ by their seed only belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: Keys of a configuration that do not change what is measured, beside the seed.
LEFT_OUT = frozenset(
    {
        "seed_everything",
        "model.seed",
        "run_dir",
        "resume",
        "config",
        "wandb",
        "trainer.default_root_dir",
        "trainer.logger",
        "trainer.enable_progress_bar",
        "trainer.enable_model_summary",
        "probing.progress",
        "probing.keep_full_checkpoints",
        "data.init_args.num_workers",
    }
)


def group_of(config: Mapping[str, Any], name: str) -> str:
    """W&B group of a run: the same for all seeds of one configuration, another one for any other configuration.

    Args:
        config: the configuration as plain types, as it is logged.
        name: what the group's name begins with, such as that of the configuration file.
    """
    text = json.dumps(_kept(config, ""), sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _kept(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        key: _kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in LEFT_OUT
    }
