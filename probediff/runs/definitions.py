"""Quantities that an earlier version computed otherwise under the same name, and how they are computed now.

Each record of such a probe holds these words among its conventions, and each result of a command, so that numbers of
both kinds are not taken for one. A record without them is of an earlier version. Plain data.
"""

from collections.abc import Mapping
from typing import Any

#: Key of the conventions.
DEFINITIONS = "definitions"
#: What a record without the words was computed by.
EARLIER = "as an earlier version computed it"

#: Of images in [-1, 1], for every SSIM.
SSIM = "of intensities (x + 1) / 2 in [0, 1]"

_BY_PROBE = {
    "assignment_accuracy": {
        "hubs_pixel_variance": "mean over all samples, each weighted by the number of noises that it captures",
    },
    "checkpoint_similarity": {"ssim": SSIM},
    "latent_interpolation": {"midpoint_ssim": SSIM, "midpoint_ssim_null": SSIM},
    "pixel_correlation": {"null": "two-sided Student-t quantiles at exp(psi(i)) / (D (D - 1) / 2), mean over i = 1..k"},
}
_FINAL = "_final"


def definitions_of(probe: str) -> dict[str, str]:
    """The words for the quantities of a probe (or of its records at the end) by key; empty where none was changed."""
    return dict(_BY_PROBE.get(probe.removesuffix(_FINAL), {}))


def find_redefined(probe: str, conventions: Mapping[str, Any]) -> dict[str, str]:
    """Quantities in a record of ``probe`` that are not computed as now: key -> how they are, as far as is known."""
    stored = conventions.get(DEFINITIONS)
    there = stored if isinstance(stored, Mapping) else {}
    return {
        key: str(there.get(key, EARLIER)) for key, words in definitions_of(probe).items() if there.get(key) != words
    }
