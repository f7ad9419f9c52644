"""The table of hubs beside the per-sample results that it is taken from."""

from __future__ import annotations

import torch

from probediff.callbacks import AssignmentAccuracy
from tests.callbacks.passes import build_pass


def test_the_table_lists_the_samples_that_capture_most_noises() -> None:
    event = build_pass()
    result = AssignmentAccuracy(num_hubs=5).measure(event).validate()
    table = result.table("hubs")
    quantities = ["pixel_variance", "squared_norm_per_value", "squared_brightness"]
    assert list(table) == ["sample", "captures", "share", *quantities]
    assert {len(column) for column in table.values()} == {5}
    captured = result.arrays["captured_noises"]
    assert torch.equal(table["captures"], captured.sort(descending=True).values[:5])
    assert torch.equal(table["captures"], captured[table["sample"]])
    assert float(table["share"][0]) == torch.tensor(result.values["largest_hub_share"])
    for name in quantities:
        assert torch.equal(table[name], result.arrays[name][table["sample"]])
