"""What is recorded with a standard error, and what without: of a run, and of passes of one or two samples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from torch import Tensor

from probediff.callbacks import (
    AssignmentAccuracy,
    CheckpointSimilarity,
    DenoiserStructure,
    FixedNoiseGeneration,
    InversionAngles,
    LatentInterpolation,
    LatentNormality,
    NoiseImageMap,
    PixelCorrelation,
    Probe,
    SampleQuality,
    TrajectoryHeatmap,
    Whitening,
)
from probediff.commands.options import available_probes
from probediff.measures import TrajectoryRecorder
from probediff.measures.uncertainty import ERRORS_IN_INTERVAL, split_errors
from probediff.runs.folder import RunFolder
from probediff.runs.stored_results import read_result
from tests.callbacks import test_denoiser_structure as structure
from tests.callbacks.passes import SamplingPass, build_pass, context
from tests.conftest import CLOSE, tiny_settings
from tests.reference.errors_reference import errors_by_recomputing

Fit = Callable[..., tuple[Any, L.Trainer]]

#: Numbers of a probe that have no standard error. All others have one where there are samples enough.
WITHOUT = {
    # Modes.
    "inversion_angles": {f"at_{vertex}_most_probable_deg" for vertex in ("noise", "image", "latent")},
    # Nulls that follow from the number of samples and of values, and settings.
    "assignment_accuracy": {"null"},
    "pixel_correlation": {"null", "k"},
    "noise_image_map": {"num_samples", "hubness_null", "identity_share_null"},
    "latent_normality": {"shapiro_samples", "plain_area_threshold"}
    | {
        f"{name}_null"
        for name in (
            *("mean", "std", "pixel_divergence", "ks_mean_distance", "ks_rejected_share", "shapiro_rejected_share"),
            *("squared_norm_per_value", "norm_outside_share", "low_to_high_power", "patch_correlation"),
        )
    },
    "checkpoint_similarity": {"previous_step"},
    "checkpoint_similarity_final": {"final_step"},
    "latent_interpolation": {"num_pairs", "num_points"},
    # Settings, and what tells how far the iteration came.
    "whitening": {
        *("num_images", "num_fixed_points", "num_iterations", "ridge", "timestep"),
        *("residual_rms", "converged_share"),
    },
}


def probes() -> list[L.Callback]:
    """Those that are on unless they are switched off, and those that measure samples when they are switched on."""
    return [
        *(FixedNoiseGeneration(), InversionAngles(num_shown=4), AssignmentAccuracy(num_hubs=4), PixelCorrelation()),
        *(
            CheckpointSimilarity(num_directions=3),
            LatentNormality(),
            NoiseImageMap(),
            TrajectoryHeatmap(num_lambdas=11),
        ),
        # Without networks it measures nothing.
        SampleQuality(),
        LatentInterpolation(enabled=True, num_pairs=4, num_points=3),
        Whitening(enabled=True, num_images=1797, num_fixed_points=30, num_iterations=3, ridge=0.01),
    ]


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Of probes, and not of the pass, of times and of the training."""
    names = {probe.name() for probe in probes() if isinstance(probe, Probe)}
    return [record for record in RunFolder(folder).records() if record["probe"].removesuffix("_final") in names]


def test_all_probes_that_are_on_are_looked_at() -> None:
    on = {name for name, probe in available_probes().items() if probe().enabled}
    assert on <= {probe.name() for probe in probes() if isinstance(probe, Probe)}


def test_every_number_of_samples_is_recorded_with_its_error(fit: Fit, tmp_path: Path) -> None:
    fit(probes(), settings=tiny_settings(num_samples=40))
    records = records_of(tmp_path / "run")
    assert len(records) == 31 and not any("error" in record for record in records)
    for record in records:
        errors, without = record["standard_errors"], WITHOUT.get(record["probe"], set())
        # A number that is not known has no error either.
        known = {key for key, value in record["values"].items() if value is not None}
        assert known - without == errors.keys() - (record["values"].keys() - known), (record["probe"], record["step"])
        assert all(math.isfinite(error) and error >= 0 for error in errors.values())
        assert without <= record["values"].keys()


def test_records_and_stored_results_keep_them(fit: Fit, tmp_path: Path) -> None:
    """As text without NaN, as a record and as what a probe found."""
    fit([LatentNormality(), TrajectoryHeatmap(num_lambdas=11)], settings=tiny_settings(num_samples=6))
    folder = RunFolder(tmp_path / "run")
    lines = [json.loads(line) for line in folder.records_path.read_text().splitlines()]
    lines = [line for line in lines if "standard_errors" in line]
    assert len(lines) == 6
    for line in lines:
        (record,) = (r for r in records_of(folder.path) if (r["probe"], r["step"]) == (line["probe"], line["step"]))
        assert record["standard_errors"] == line["standard_errors"]
        assert None not in line["standard_errors"].values()
        assert read_result(folder, record).standard_errors == line["standard_errors"]


def test_they_do_not_depend_on_the_batch_size(fit: Fit, tmp_path: Path) -> None:
    found = []
    for batch_size in (7, 64):
        root = tmp_path / str(batch_size)
        fit(probes(), settings=tiny_settings(num_samples=40, batch_size=batch_size), default_root_dir=root)
        found.append({(r["probe"], r["step"]): r["standard_errors"] for r in records_of(root)})
    one, other = found
    assert one.keys() == other.keys()
    for key, errors in one.items():
        assert errors == pytest.approx(other[key], rel=100 * CLOSE, abs=CLOSE), key


@pytest.mark.parametrize("probe", [AssignmentAccuracy(), NoiseImageMap()])
@pytest.mark.parametrize("num", [9, 45])
def test_they_are_those_of_measuring_anew_without_each_group(probe: Probe, num: int) -> None:
    event = build_pass(num)

    def measure(kept: Tensor) -> dict[str, float]:
        return probe.measure(replace(event, noise=event.noise[kept], x_0=event.x_0[kept], latent=None)).values

    found, expected = probe.measure(event).standard_errors, errors_by_recomputing(measure, num)
    shares = {"image_to_noise", "noise_to_image", "image_to_noise_top5", "noise_to_image_top5"}
    shares |= {"identity_share", "nearest_image_share", "nearest_noise_share"}
    for name, error in found.items():
        least = 3 / num / ERRORS_IN_INTERVAL if name in shares else 0.0
        assert error == pytest.approx(max(expected[name], least), rel=1e-6, abs=1e-12), name


def test_shares_of_all_have_the_rule_of_three() -> None:
    event = build_pass(30)
    event = replace(event, x_0=0.9 * event.noise)
    for probe, shares in (
        (AssignmentAccuracy(), ("image_to_noise", "noise_to_image_top5")),
        (NoiseImageMap(), ("identity_share",)),
    ):
        result = probe.measure(event)
        for share in shares:
            assert result.values[share] == 1
            assert result.standard_errors[share] * ERRORS_IN_INTERVAL == pytest.approx(0.1)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_samples_have_values_and_errors_where_they_are_known(num: int) -> None:
    """Each probe measures as few samples as it takes; no error is NaN."""
    event = build_pass(num, kind=SamplingPass)
    recorder = TrajectoryRecorder(4)
    for index in range(4):
        done = (index + 1) / 4
        recorder.on_step(SimpleNamespace(index=index, x=(1 - done) * event.noise + done * event.x_0))
    assert event.latent is not None
    event = replace(event, trajectory=recorder.distances(event.noise, event.latent))
    takers: list[Probe] = [FixedNoiseGeneration(), InversionAngles(), AssignmentAccuracy(), TrajectoryHeatmap()]
    takers += [LatentNormality(), NoiseImageMap(), LatentInterpolation(num_pairs=num // 2)] if num > 1 else []
    for probe in takers:
        result = probe.measure(event).validate()
        assert len(result.values) > 2, probe.name()
        assert not any(map(math.isnan, result.standard_errors.values())), probe.name()
        if num == 1:
            assert result.standard_errors == {}, probe.name()
    few = PixelCorrelation().measure(build_pass(4))
    assert few.values.keys() == {"noise", "latent", "sample", "null", "k"} and few.standard_errors == {}


def test_two_sets_of_few_samples_are_compared(tmp_path: Path) -> None:
    probe = CheckpointSimilarity(num_directions=1)
    probe.check(context(tmp_path, num_samples=4))
    event = build_pass(4)
    assert event.latent is not None
    values, errors = split_errors(probe.compare(event.x_0, event.latent))
    assert values.keys() == {"cka", "cka_debiased", "svcca", "ssim"}
    assert errors.keys() == {"ssim"}


def test_shares_and_gaps_of_a_denoiser_have_those_of_the_table(tmp_path: Path) -> None:
    probe = DenoiserStructure(enabled=True, num_images=30, sigmas=structure.LEVELS)
    probe.check(structure.context(tmp_path))
    result = probe.measure(structure.pass_of(structure.FAMILY.with_bandwidth(0.3)))
    table, errors = structure.levels_of(result), dict(result.standard_errors)
    shares = {f"linear_share_sigma_{s:g}": table["linear_share_error"][k] for k, s in enumerate(structure.LEVELS)}
    assert {name: errors.pop(name) for name in shares} == shares
    # Bandwidths have intervals, and gaps of the Gaussian and of complete memorisation are those of exact denoisers.
    assert errors.keys() == {"r2", "linear_share", "memorisation_gap", "memorisation_excess"}
    for name, error in errors.items():
        assert error == result.values[f"{name}_error"] > 0
