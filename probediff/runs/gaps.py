"""What a run's folder should hold and does not."""

import warnings
from collections.abc import Collection

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
