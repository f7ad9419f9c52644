"""The same training, probed by `fit`'s module, by a module of one's own and in a plain loop: the same records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probediff.callbacks import AssignmentAccuracy, InversionAngles, PixelCorrelation
from probediff.models import load_checkpoint_model, wrap_network
from probediff.probing import ProbeRunner
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.conftest import Fit, tiny_settings
from tests.probing.own_modules import SHAPE, Manual, T

#: They name where the model comes from.
SOURCE = ("source", "prediction_type", "timestep_scale")


def probes() -> list[Any]:
    return [InversionAngles(num_shown=4), AssignmentAccuracy(num_hubs=4), PixelCorrelation()]


def comparable(folder: Path) -> list[dict[str, Any]]:
    """The records without clocks and without what the source is called."""
    kept = []
    for record in RunFolder(folder).records():
        if record["probe"] in ("training", "timing"):
            continue
        conventions = {key: value for key, value in record["conventions"].items() if key not in SOURCE}
        kept.append({key: value for key, value in record.items() if key != "seconds"} | {"conventions": conventions})
    return kept


def test_records_are_equal_bit_for_bit(fit: Fit, tmp_path: Path) -> None:
    fit(probes())
    ours = comparable(tmp_path / "run")
    assert {record["step"] for record in ours} == {0, 2, 5}
    fit(probes(), Manual(), default_root_dir=tmp_path / "own")  # type: ignore[arg-type]
    assert comparable(tmp_path / "own") == ours
    with ProbeRunner(tmp_path / "loop", probes(), tiny_settings(), progress=False) as runner:
        for step in (0, 2, 5):
            ema = load_checkpoint_model(tmp_path / "own", step, trust=True).eps_model.unet
            schedule = NoiseSchedule.cosine(T)
            scalars = runner(step, wrap_network(ema, schedule, SHAPE, timestep_scale=1000 / T, ema_rate=0.9))
            assert "probe/inversion_angles/at_image_mean_deg" in scalars
    assert comparable(tmp_path / "loop") == ours
