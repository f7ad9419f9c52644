"""The numbers of P1 as its code computes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from probediff.callbacks import PaperCompat
from probediff.measures.paper_compat import ssim_min_max
from probediff.probing import PassSettings
from probediff.probing.probe import ProbeContext
from probediff.runs.folder import RunFolder
from tests.callbacks.passes import build_pass, context


def test_paper_compat(tmp_path: Path) -> None:
    """The authors' numbers differ from ours in the way that their code does."""
    event, probe = build_pass(), PaperCompat(num_directions=3)
    assert event.latent is not None
    probe.check(context(tmp_path))
    values = probe.measure(event).values
    kept = len(event.noise) // event.settings.batch_size * event.settings.batch_size
    assert 0 < kept < len(event.noise)
    assert values["num_samples"] == kept
    edges = [(part - event.x_0)[:kept].flatten(1).double() for part in (event.noise, event.latent)]
    cosines = torch.nn.functional.cosine_similarity(*edges)
    expected = {"mean": cosines.mean(), "std": cosines.std()}
    for name, cosine in expected.items():
        assert values[f"at_image_of_{name}_cosine_deg"] == pytest.approx(
            math.degrees(math.acos(float(cosine))), abs=1e-4
        )
    folder = RunFolder(tmp_path / "run").create()
    for step, x_0 in ((0, event.noise), (3, event.x_0)):
        folder.save_samples(step, x_0)
    final = probe.finish(ProbeContext(event.settings, (1, 8, 8), folder))
    assert list(final) == [0]
    assert final[0].values["ssim_min_max"] == pytest.approx(
        ssim_min_max(folder.load_samples(0), folder.load_samples(3))
    )
    with pytest.raises(ValueError, match=r"num_samples must be at least batch_size \(128\), got 17"):
        probe.check(ProbeContext(PassSettings(num_samples=17), (1, 8, 8), folder))
