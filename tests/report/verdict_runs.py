"""Run folders in which every statement of the papers holds, or none does, written in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from probediff.report.groups import group_runs
from probediff.report.sources import read_runs
from probediff.report.verdicts.judging import STATEMENTS, GroupVerdicts, judge_all
from probediff.report.verdicts.rule import Verdict
from probediff.report.verdicts.statements import Outcome
from probediff.runs.definitions import DEFINITIONS, SSIM, definitions_of
from tests.report.synthetic import config, conventions

#: The first 5 % of the training end at step 200, the first tenth at 400.
STEPS = (0, 40, 200, 400, 2000, 4000)
LAST = STEPS[-1]
#: A standard error far below every distance from a threshold, and one far above.
SMALL, LARGE = 1e-4, 100.0

#: What is said of a network; what also of exact denoisers.
KEYS = [statement.key for statement in STATEMENTS]
OF_EXACT = [statement.key for statement in STATEMENTS if statement.is_of_models and not statement.is_of_training]

Values = dict[str, float | None]
NUM_IMAGES = 12


def records(probe: str, by_step: dict[int, Values], error: float | None, **how: Any) -> list[dict[str, Any]]:
    """Lines of one probe, each value with the same standard error."""
    said = {"num_samples": 1000, "clip_inversion": False, "image_shape": [3, 32, 32]} | how
    told = conventions(**said) | ({DEFINITIONS: words} if (words := definitions_of(probe)) else {})
    lines = []
    for step, values in by_step.items():
        line: dict[str, Any] = {"step": step, "probe": probe, "values": values, "conventions": told}
        if error is not None:
            line["standard_errors"] = {key: error for key, value in values.items() if value is not None}
        lines.append(line)
    return lines


def final_values(holds: bool) -> dict[str, Values]:
    """Of the final model, or of an exact denoiser."""

    def either(true: float, false: float) -> float:
        return true if holds else false

    return {
        "pixel_correlation": {"latent": either(0.46, 0.157), "null": 0.155},
        "latent_normality": {"plain_area_ratio": either(1.8, 0.9), "plain_area_ratio_null": 1.0},
        "inversion_angles": {
            "at_image_mean_deg": either(30.0, 95.0),
            "at_latent_mean_deg": either(120.0, 60.0),
            "distance_noise_latent_mean": 20.0,
        },
        "trajectory_heatmap": {
            "closest_to_latent_step_fraction": either(0.6, 0.05),
            "closest_to_latent_distance": either(10.0, 19.9),
            "noise_latent_distance": 20.0,
        },
        "assignment_accuracy": {
            "image_to_noise": either(0.995, 0.6),
            "noise_to_image": 0.45,
            "null": 0.001,
            "hubs_pixel_variance": either(0.1, 0.3),
            "pixel_variance": 0.2,
            "captures_squared_norm_per_value_spearman": either(-0.8, -0.1),
            "captures_pixel_variance_spearman": -0.5,
        },
    }


def over_training(holds: bool) -> dict[str, dict[int, Values]]:
    """What the run itself records at each step."""
    finals = final_values(holds)
    curves: dict[str, dict[int, Values]] = {probe: dict.fromkeys(STEPS, values) for probe, values in finals.items()}
    falls = (1.0, 0.95, 0.7, 0.5, 0.47, 0.45) if holds else (1.0, 1.0, 1.0, 0.99, 0.6, 0.45)
    finds = (1.0, 0.99, 0.99, 0.99, 0.99, 0.995) if holds else (1.0, 0.7, 0.7, 0.7, 0.7, 0.6)
    curves["assignment_accuracy"] = {
        step: finals["assignment_accuracy"] | {"image_to_noise": found, "noise_to_image": fallen}
        for step, found, fallen in zip(STEPS, finds, falls, strict=True)
    }
    cka = (0.1, 0.5, 0.85, 0.95, 0.99) if holds else (0.1, 0.2, 0.3, 0.5, 0.95)
    svcca = (0.1, 0.8, 0.95, 0.97, 0.99) if holds else (0.1, 0.2, 0.3, 0.4, 0.5)
    curves["checkpoint_similarity_final"] = {
        step: {"cka": a, "cka_debiased": a, "svcca": b, "ssim": a / 2, "final_step": float(LAST)}
        for step, a, b in zip(STEPS[:-1], cka, svcca, strict=True)
    }
    return curves


def final_samples(holds: bool) -> dict[int, Values]:
    """The final samples, inverted by every checkpoint."""
    share = (1.0, 0.5, 0.2, 0.01, 0.0, 0.0) if holds else (1.0, 0.9, 0.8, 0.7, 0.4, 0.0)
    # Where inversion becomes better the distance falls, from 56 at a tenth of the training to 35.
    return {
        step: {
            "at_image_mean_deg": 30.0 + 40 * s,
            "at_latent_mean_deg": 120.0 - 60 * s,
            "distance_noise_latent_mean": 30.0 - 10 * s if holds else 35.0 + 30 * s,
        }
        for step, s in zip(STEPS, share, strict=True)
    }


def whitening(holds: bool, error: float | None, **how: Any) -> dict[str, Any]:
    """A result of ``probediff whitening``."""

    def with_errors(**values: float | str) -> dict[str, Any]:
        numbers = {key: error for key, value in values.items() if isinstance(value, float)}
        return values | ({} if error is None else {"standard_errors": numbers})

    norms = {"zca": 100.0 if holds else 150.0, "pca": 300.0, "cholesky": 151.0}
    r2 = {"zca": 0.7 if holds else 0.2, "pca": 0.0, "cholesky": 0.3}
    off = 0.01 if holds else 0.3
    return {
        "conventions": {"denoiser": "network", "num_fixed_points": 6144} | how,
        "first_step": [
            {"iterations": 1, "model": with_errors(slope=0.0, noise_rms=0.01, significant_share=1.0)},
            {
                "iterations": 1000,
                "model": with_errors(slope=-0.5 if holds else -0.04, noise_rms=1.0, significant_share=0.9),
            },
        ],
        "transforms": [
            with_errors(name="diff", r2=0.96 if holds else 0.6, r2_adjusted=0.95 if holds else 0.4),
            *(with_errors(name=name, r2=r2[name], frobenius=norm, spectral=norm / 30) for name, norm in norms.items()),
        ],
        "whiteness": with_errors(
            mean_variance=1.0 if holds else 25.0, scaled_rms_diagonal=off, scaled_rms_off_diagonal=off
        ),
        "relation": with_errors(
            num_samples=1000.0,
            paired_pearson=0.34 if holds else 0.01,
            random_pearson=0.0,
            paired_l2=54.0 if holds else 62.0,
            random_l2=62.0,
            diagonal_correlation=0.3 if holds else 0.04,
            off_diagonal_rms=0.036,
        ),
    }


def each(mean: float, spread: float) -> list[list[float]]:
    """Numbers of two noises for each of a dozen images, whose differences from others have a spread."""
    return [[mean + spread * (-1) ** k, mean + spread * (-1) ** k] for k in range(NUM_IMAGES)]


def write_editing(run: Path, holds: bool, spread: float, folder: str = "", model: str = "step 4000") -> None:
    """What ``search-noise``, ``vary`` and ``edit`` leave below a run."""
    better = 0.4 if holds else 0.1
    value = {"mean": 0.001, "variance": 0.99, "lag_1_correlation": 0.001, "spectrum": 1.1}
    wrong = {"mean": 0.4, "variance": 0.7, "lag_1_correlation": 0.3, "spectrum": 9.0}
    null = {"mean": 0.0, "variance": 1.0, "lag_1_correlation": 0.0, "spectrum": 1.0}
    error = spread / 3
    checks = [
        {"check": name, "value": v, "null": null[name], "z": (v - null[name]) / error if error else None}
        for name, v in (value if holds else wrong).items()
    ]
    told = {DEFINITIONS: {"ssim": SSIM}}
    for loss in ("forward", "baseline", "backward"):
        found = {"ssim_of_each_found": each(better if loss == "forward" else 0.3, spread if loss == "forward" else 0)}
        other = {"ssim_of_each_random": each(0.2, 0)}
        varied = [{"model": f"{run.name} {model}", "conventions": {}} | found | other]
        noises = {"loss": loss, "images_sha256": "0"}
        write(run / "probes" / f"vary{folder}-{loss}/vary.json", conventions=told, noises=noises, models=varied)
    write(run / "probes/search/search_noise.json", conventions={"loss": "forward"}, checks=checks, images=[])
    edits = [
        {"strength": strength, "noise": noise, "ssim_of_each": each(mean, of)}
        for strength in (0.3, 0.5)
        for noise, mean, of in (("random", 0.2, 0), ("found", better, spread))
    ]
    write(run / "probes" / folder / "edit/edit.json", conventions=told, edits=edits, tests=[], images=[])


def write(path: Path, **content: Any) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    """``records.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_verdict_run(
    run: Path, holds: bool, error: float | None = SMALL, seed: int = 0, finished: bool = True
) -> Path:
    """A run with data for every statement, of which all hold or none; and an exact denoiser of h = 0.4 likewise."""
    lines = [line for probe, curve in over_training(holds).items() for line in records(probe, curve, error)]
    end = {"step": LAST, "probe": "run", "values": {"last_step": float(LAST)}, "conventions": {}}
    write_lines(run, lines + [end] * finished)
    (run / "config.yaml").write_text(yaml.safe_dump(config(seed, trainer={"max_steps": LAST})))
    probes, assignment = run / "probes", "assignment_accuracy"
    few: Values = {"noise_to_image": 0.94 if holds else 0.46, "image_to_noise": 0.9}
    write_lines(probes / "replay/num_steps=0010", records(assignment, {LAST: few}, error, num_steps=10))
    inverted = records("inversion_angles", final_samples(holds), error, samples_of_step=LAST)
    write_lines(probes / "final_samples/num_steps=0100", inverted)
    likeness: Values = {"cka": 0.9, "cka_debiased": 0.7 if holds else 0.97, "final_step": float(LAST)}
    gaussian = {"denoiser": "gaussian", "fitted_to": 50_000}
    write_lines(probes / "gaussian/num_steps=0100", records("network_similarity", {0: likeness}, error, **gaussian))
    write(probes / "whitening/whitening.json", **whitening(holds, error))
    write_editing(run, holds, 3 * (error or 0))
    exact = {"denoiser": "smoothed_empirical", "bandwidth": 0.4, "fitted_to": 50_000}
    lines = [line for p, values in final_values(holds).items() for line in records(p, {0: values}, error, **exact)]
    write_lines(probes / "exact-h=0.4/num_steps=0100", lines)
    lines = records(assignment, {0: few}, error, num_steps=10, **exact)
    write_lines(probes / "exact-h=0.4/num_steps=0010", lines)
    write(probes / "exact-h=0.4/whitening/whitening.json", **whitening(holds, error, **exact))
    write_editing(run, holds, 3 * (error or 0), "exact-h=0.4", "exact-h=0.4")
    return run


def judged(*runs: Path) -> GroupVerdicts:
    """The verdicts of runs that are one group."""
    (of_group,) = judge_all(group_runs(read_runs(list(runs))))
    return of_group


def outcomes(of_group: GroupVerdicts) -> dict[str, Outcome]:
    """Those of the network by statement."""
    return {outcome.statement.key: outcome for outcome in of_group.network.outcomes}


def verdicts_of(outcomes: tuple[Outcome, ...]) -> dict[str, Verdict]:
    """By statement."""
    return {outcome.statement.key: outcome.verdict for outcome in outcomes}


def lines_of(run: Path) -> list[str]:
    """Those of the records."""
    return (run / "records.jsonl").read_text().splitlines(keepends=True)


def remake(run: Path, edit: Any) -> Path:
    """The run with its records changed."""
    kept = [edit(json.loads(line)) for line in lines_of(run)]
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept if line is not None))
    return run
