"""In what a file of weights and the network it should fill differ."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def tensor_differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What `found` lacks, has beside, and has in another shape, one phrase a tensor; empty when they fit."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} expected {tuple(tensor.shape)} got {tuple(found[name].shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return problems
