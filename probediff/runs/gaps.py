"""What a run that goes on is told of its folder: what should be there and is not, what is of an earlier version."""

import warnings
from collections.abc import Collection

from probediff.runs.definitions import find_redefined
from probediff.runs.folder import RunFolder


def tell_gaps(folder: RunFolder, step: int, due: Collection[int]) -> None:
    """Warn of what is gone from a run that goes on from ``step``; it is not made again.

    Args:
        folder: the run's folder.
        step: of the checkpoint.
        due: steps that the run probes.
    """
    complete = folder.complete_steps()
    # Without a probe, or where the pass failed, there are no samples.
    sampled = {record["step"] for record in folder.records() if record["probe"] == "pass" and record["values"]}
    checkpoints = {k for k in folder.checkpoints() if k in due}
    gaps = {
        "records": sorted(k for k in checkpoints - complete if k < step),
        "samples": sorted(k for k in sampled & checkpoints - set(folder.sample_steps()) if k <= step),
    }
    for content, steps in gaps.items():
        if steps:
            warnings.warn(
                f"the {content} of step {', '.join(map(str, steps))} are gone from {folder.path}; `probediff probe "
                f"{folder.path}` measures the checkpoints again",
                stacklevel=2,
            )


def tell_processes(before: int, now: int) -> None:
    """Warn of a run that goes on with another number of processes."""
    if before != now:
        warnings.warn(
            f"the run goes on with {now} process(es), before {before}: the images and noises stay the same, dropout "
            f"and rounding do not",
            stacklevel=2,
        )


def tell_redefined(folder: RunFolder) -> None:
    """Warn of quantities that the run has recorded by another definition than the one that it goes on with."""
    keys = {
        f"{record['probe']} {key}"
        for record in folder.records()
        for key in find_redefined(record["probe"], record["conventions"])
        if key in record["values"]
    }
    if keys:
        warnings.warn(
            f"{folder.path} goes on with other definitions than an earlier version had of: {', '.join(sorted(keys))}; "
            f"records say under definitions which they have, and `probediff probe {folder.path}` measures the "
            f"checkpoints again",
            stacklevel=2,
        )
