"""What commands that use Lightning print, and what they keep it from printing."""

import logging
import warnings

from lightning.pytorch.utilities import rank_zero_only


def quiet_libraries() -> None:
    """Leave out the libraries' advice that does not apply here."""
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        # The averaged copies of the network are meant to be in eval mode.
        "Found .* module\\(s\\) in eval mode at the start of training.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


@rank_zero_only
def print_once(text: str) -> None:
    """Print on the first process only."""
    print(text, flush=True)
