"""What may change when a run goes on, and what makes it another run."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

#: Keys that say where a run lies and how it was started, not what it is.
_NOT_COMPARED = ("config", "resume", "run_dir", "trainer.default_root_dir", "model.seed")
#: Keys that are applied when the run goes on. What the data are, is compared by the images themselves.
_MAY_CHANGE = (
    *("trainer.*", "wandb.*", "model.learning_rate", "model.weight_decay", "model.compile"),
    *("probing.schedule.*", "probing.progress", "probing.keep_full_checkpoints", "probing.settings.batch_size"),
    *(f"data.init_args.{name}" for name in ("num_workers", "root", "path", "arrays", "url", "download")),
    *("data.init_args.cache_dir", "data.init_args.max_cache_gb"),
    # What the arguments of somebody else's module do is not known; its weights have to fit, and changes are noted.
    *("module.init_args.*", "module.file", "module.file_sha256", "loop.*"),
    *("probes.*.file", "probes.*.file_sha256"),
)
#: Keys of the default optimiser.
_OF_ADAMW = ("model.learning_rate", "model.weight_decay")

Changes = dict[str, tuple[Any, Any]]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def compare_configs(
    stored: Mapping[str, Any], asked: Mapping[str, Any], defaults: Mapping[str, Any], measured: Collection[str] = ()
) -> tuple[Changes, Changes]:
    """What differs between the configuration of a run and the one it is to go on with.

    Args:
        stored: that of the run.
        asked: that of this start.
        defaults: values of keys that the stored one lacks, because its version did not have them yet.
        measured: names of probes that have records.

    Returns:
        Changes that can be applied, and changes that would make it another run, each as key -> (stored, asked).
    """
    before, after = flatten(defaults) | flatten(stored), flatten(asked)
    for key in [key for key in before if key.endswith(".enabled")]:
        section = key.removesuffix("enabled")
        if not _has(after, section):  # the file with the probe is gone: it is switched off
            after |= {k: value for k, value in before.items() if k.startswith(section)} | {key: False}
        elif not _has(flatten(stored), section):  # it has come since
            before[key] = False
    differing = {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if key not in _NOT_COMPARED and not _is_equal(key, before, after)
    }
    allowed = {key: change for key, change in differing.items() if _may_change(key, before, measured)}
    return allowed, {key: change for key, change in differing.items() if key not in allowed}


def _has(flat: Mapping[str, Any], section: str) -> bool:
    return any(key.startswith(section) for key in flat)


def _is_equal(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if key not in before:
        # An argument that the version of the run did not have; or a part of what was no mapping, such as null.
        sections = key.split(".")[:-1]
        return not any(".".join(sections[: k + 1]) in before for k in range(len(sections)))
    return bool(before[key] == after.get(key))


def _may_change(key: str, before: Mapping[str, Any], measured: Collection[str]) -> bool:
    """Whether a run can go on with another value; of a probe: on and off, and anything before it has measured."""
    section, _, option = key.rpartition(".")
    is_off = not before.get(f"{section}.enabled", True)
    if key in _OF_ADAMW and any(_has(before, f"{name}.") for name in ("optimizer", "lr_scheduler")):
        return False  # the state of what was given has them
    if f"{section}.enabled" in before and (option == "enabled" or (is_off and section not in measured)):
        return True
    return any(fnmatchcase(key, pattern) for pattern in _MAY_CHANGE)


def refuse(folder: object, refused: Changes) -> None:
    """Raise ValueError with every change that cannot be made, both values and the cure; none is fine."""
    if refused:
        lines = [f"  {key}: {before!r} there, {after!r} asked for" for key, (before, after) in refused.items()]
        raise ValueError(
            "\n".join(
                [
                    f"the run in {folder} has other settings than this start, which cannot change while it goes on:",
                    *lines,
                    f"give them as they are there, such as by --config {folder}/config.yaml before all other options, "
                    f"or start another run with another --run_dir",
                ]
            )
        )
