"""Runs that differ by their seed only belong together."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from probediff.runs.configuration import MODULE

#: Where the seed of the training stands: of `probediff fit`, of a module of one's own, of a loop.
SEEDS = ("seed_everything", "module.init_args.seed", "loop.seed")
#: Keys of a configuration that do not change what is measured, beside the seed.
LEFT_OUT = frozenset(
    {
        *SEEDS,
        "model.seed",
        "module.file",
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


def config_value(config: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key of a configuration, None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def seed_of(config: Mapping[str, Any]) -> int | None:
    """The seed of the training; None where the configuration does not say it."""
    seeds = (config_value(config, key) for key in SEEDS)
    return next((seed for seed in seeds if isinstance(seed, int)), None)


def is_told_apart(config: Mapping[str, Any]) -> bool:
    """Whether equal configurations mean equal runs: not where somebody's own module or loop says nothing of itself."""
    module = config.get(MODULE)
    is_unknown = isinstance(module, dict) and "unknown" in module
    return bool(config) and not (is_unknown and not config.get("loop"))


def max_steps_of(config: Mapping[str, Any]) -> int | None:
    """The last training step that a configuration asks for; None where it counts epochs."""
    steps = config_value(config, "trainer.max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def _kept(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        key: _kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in LEFT_OUT
    }
