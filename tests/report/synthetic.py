"""Run folders as ``probediff fit`` and ``probediff probe`` leave them, written in milliseconds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from probediff.measures.covariance import moments
from probediff.measures.whitening import WhiteningTransform
from probediff.report.structure import COLUMNS
from probediff.schedule import NoiseSchedule
from probediff.whitening.analysis import Plan, analyse
from probediff.whitening.closed_form import GaussianNoises

STEPS = (0, 10, 100, 1000)
SIGMAS = (0.1, 0.2, 0.5, 1, 2, 5, 10)


def conventions(**options: Any) -> dict[str, Any]:
    settings = {
        "num_samples": 20,
        "num_steps": 100,
        "convention": "openai",
        "clip": True,
        "clip_inversion": True,
        "noise_seed": 420,
        "weights": "ema",
        "ema_rate": 0.999,
        "batch_size": 128,
        "schedule": "cosine",
        "num_train_timesteps": 4000,
        "image_shape": [3, 8, 8],
        "dtype": "float32",
        "inversion": {"method": "ddim"},
    }
    return settings | options


def config(seed: int, **options: Any) -> dict[str, Any]:
    ran = {
        "seed_everything": seed,
        "trainer": {"max_steps": 1000},
        "model": {"learning_rate": 1e-4},
        "data": {"class_path": "probediff.data.CIFAR10", "init_args": {"batch_size": 128}},
        "run_dir": f"runs/{seed}",
    }
    return ran | options


def structure_values(done: float) -> dict[str, float | None]:
    """Those of ``denoiser_structure``, when this share of the training is done."""
    return {
        "bandwidth": 1 - 0.5 * done,
        "linear_share": 1 - 0.3 * done,
        "linear_share_null": -3.0,
        "memorisation_gap": 0.1 * done,
        "memorisation_gap_null": 0.01,
        **{f"bandwidth_sigma_{sigma:g}": 1 - done / (2 + sigma) for sigma in SIGMAS},
        **{f"held_out_bandwidth_sigma_{sigma:g}": 1 - done / (4 + sigma) for sigma in SIGMAS},
        **{f"memorisation_z_sigma_{sigma:g}": done / (9 + sigma) for sigma in SIGMAS},
    }


def values_of(probe: str, step: int, offset: float) -> dict[str, float | None]:
    """Smooth values that differ by run; the shapes are those that P1 describes."""
    done = math.log1p(step) / math.log1p(max(STEPS))
    image = 72 - 40 * done + offset
    latent = 36 + 70 * done - 2 * offset
    table: dict[str, dict[str, float | None]] = {
        "training": {"loss_mean": 1 - 0.9 * done + offset / 50, "steps_per_second": 12 + offset},
        "inversion_angles": {
            **{f"at_noise_{k}": 180 - image - latent for k in ("mean_deg", "most_probable_deg")},
            **{f"at_image_{k}": image for k in ("mean_deg", "most_probable_deg")},
            **{f"at_latent_{k}": latent for k in ("mean_deg", "most_probable_deg")},
            **{f"at_{v}_std_deg": 1.5 for v in ("noise", "image", "latent")},
            "distance_noise_image_mean": 60 - 5 * done,
            "distance_image_latent_mean": 55 - 9 * done + offset,
            "distance_noise_latent_mean": 20 - 9 * done,
            "latent_mean": 0.001,
            "latent_std": 0.9 + 0.05 * done,
        },
        "assignment_accuracy": {
            "image_to_noise": 1 - 0.02 * done - offset / 100,
            "noise_to_image": 1 - 0.5 * done + offset / 100,
            "image_to_noise_top5": 1.0,
            "noise_to_image_top5": 1 - 0.3 * done,
            "null": 0.05,
            "largest_hub_share": 0.05 + 0.5 * done,
            "hubs_pixel_variance": 0.9 - 0.8 * done,
            "pixel_variance": 0.9 - 0.4 * done,
        },
        "pixel_correlation": {
            "noise": 0.159,
            "latent": 0.16 + 0.3 * done + offset / 100,
            "sample": 0.2 + 0.78 * done,
            "null": 0.155,
            "k": 10.0,
        },
        "trajectory_heatmap": {
            "closest_to_latent_step_fraction": 0.6 + offset / 100,
            "latent_nearest_from_step_fraction": None,
            "another": 2.0,
        },
        "latent_normality": {
            "std": 0.9,
            "std_null": 1.0,
            "ks_mean_distance": 0.1 * done,
            "ks_mean_distance_null": 0.02,
        },
        "noise_image_map": {"identity_share": 1 - 0.6 * done, "identity_share_null": 0.05, "num_samples": 20.0},
        "latent_interpolation": {"midpoint_ssim": 0.9 - done / 2, "midpoint_ssim_null": 0.1, "num_pairs": 2.0},
        "sample_quality": {"dino_fid": 300 - 250 * done, "dino_fid_null": 12.0, "num_real": 100.0},
        "checkpoint_similarity_final": {"cka": 0.1 + 0.8 * done, "ssim": 0.05 + 0.7 * done, "final_step": 1000.0},
        "network_similarity": {"cka": 0.8 + offset / 100, "ssim": 0.3 + offset / 100, "final_step": 1000.0},
        "denoiser_structure": structure_values(done),
        "my_own_probe": {"range": 3.5 + done + offset},
    }
    return table[probe]


EVERY_PROBE = (
    "training",
    "inversion_angles",
    "assignment_accuracy",
    "pixel_correlation",
    "trajectory_heatmap",
    "latent_normality",
    "noise_image_map",
    "latent_interpolation",
    "sample_quality",
    "denoiser_structure",
    "my_own_probe",
)


def write_records(
    folder: Path,
    probes: tuple[str, ...] = EVERY_PROBE,
    steps: tuple[int, ...] = STEPS,
    offset: float = 0.0,
    finished: bool = True,
    error: float | None = None,
    **options: Any,
) -> None:
    """``records.jsonl`` as the tracker writes it, every number with one standard error; options: conventions."""
    folder.mkdir(parents=True, exist_ok=True)
    how = conventions(**options)
    records: list[dict[str, Any]] = [
        {"step": step, "probe": probe, "values": values_of(probe, step, offset), "conventions": how, "seconds": 0.1}
        for step in steps
        for probe in probes
    ]
    if error is not None:
        records = [record | {"standard_errors": dict.fromkeys(record["values"], error)} for record in records]
    if finished:
        final = "checkpoint_similarity_final"
        records += [
            {"step": step, "probe": final, "values": values_of(final, step, offset), "conventions": how}
            for step in steps[:-1]
        ]
        records.append({"step": steps[-1], "probe": "run", "values": {"last_step": steps[-1]}, "conventions": how})
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def structure_levels() -> dict[str, torch.Tensor]:
    """The table of noise levels of the probe `denoiser_structure`, at some level for both splits."""
    generator, sigma = torch.Generator().manual_seed(3), torch.tensor(SIGMAS * 2, dtype=torch.float64)
    columns = {
        f"levels_{name}": torch.rand(len(sigma), generator=generator, dtype=torch.float64)
        for name in (*COLUMNS, "gap_excess", "gap_excess_error")
    }
    splits = (torch.arange(len(sigma)) >= len(SIGMAS)).double()
    given = {"held_out": splits, "bandwidth_identified": 1 - splits, "sigma": sigma * 1.01, "sigma_asked": sigma}
    return columns | {f"levels_{name}": column for name, column in given.items()}


def write_files(folder: Path, steps: tuple[int, ...], seed: int, px: int = 8, num: int = 20) -> None:
    """Samples, pictures and the heat map of every step."""
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    noise = torch.randn(num, 3, px, px, generator=torch.Generator().manual_seed(1))
    own = torch.randn(num, 3, px, px, generator=torch.Generator().manual_seed(seed))
    share, lambdas = torch.linspace(0.05, 1, 20), torch.linspace(0, 1, 11)
    distance = ((share[:, None] - 0.2 - 0.5 * lambdas) ** 2).sqrt() * 50 + 3
    for step in steps:
        name = f"step={step:08d}"
        # Runs with different seeds come to agree.
        x_0 = (0.5 * noise + 0.5 * own / (1 + step)).clamp(-1, 1)
        save_file({"x_0": x_0.half()}, folder / "samples" / f"{name}.safetensors")
        heat = {"mean_distance": distance, "step_fraction": share, "lambdas": lambdas}
        save_file(heat, folder / "samples" / f"{name}.trajectory_heatmap.safetensors")
        save_file(structure_levels(), folder / "samples" / f"{name}.denoiser_structure.safetensors")
        pixels = torch.randint(0, 255, (3 * 18, 6 * 18, 3), generator=torch.Generator().manual_seed(step + seed))
        for picture in ("inversion_angles.latents", "assignment_accuracy.hubs", "latent_interpolation.paths"):
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / "pictures" / f"{name}.{picture}.png")


def write_run(folder: Path, seed: int = 0, steps: tuple[int, ...] = STEPS, files: bool = True, **options: Any) -> Path:
    """A finished run with everything; options go to ``write_records``."""
    write_records(folder, steps=steps, **({"offset": float(seed)} | options))
    header = "# started: 2026-01-01T00:00:00+00:00\n# torch: 2.15.0\n# git_commit: 0123abc\n# lightning.pytorch==2.6\n"
    (folder / "config.yaml").write_text(header + yaml.safe_dump(config(seed)))
    if files:
        write_files(folder, steps, seed)
    return folder


def write_probes(run: Path) -> None:
    """What ``probediff probe`` adds below a run."""
    for num_steps in (10, 1000):
        probes = ("assignment_accuracy", "inversion_angles")
        folder = run / "probes" / "replay" / f"num_steps={num_steps:04d}"
        write_records(folder, probes, (1000,), offset=-3, finished=False, num_steps=num_steps)
    angles = ("inversion_angles",)
    write_records(run / "probes/final_samples/num_steps=0100", angles, offset=2, finished=False, samples_of_step=1000)
    gaussian = ("inversion_angles", "assignment_accuracy", "pixel_correlation", "latent_normality")
    write_records(run / "probes/gaussian/num_steps=0100", gaussian, (0,), 5, False, denoiser="gaussian")
    write_exact(run, "exact-h=0", -4, bandwidth=0.0)
    write_exact(run, "exact-h=0.4", 3, bandwidth=0.4)
    rows = [
        {"name": "ddim", "method": "ddim", "reconstruction_l2": 3.0, "noise_distance": 20.0, "null_x": None},
        {"name": "edict", "method": "edict", "reconstruction_l2": 1e-5, "noise_distance": 2.0, "null_x": None},
    ]
    (run / "probes/replay/num_steps=0010/inversion_methods.json").write_text(json.dumps(rows))
    write_whitening(run / "probes" / "whitening")
    write_comparison(run / "probes" / "compare")


def comparison_mean(step: int, r2: float | None, **which: Any) -> dict[str, Any]:
    """An entry of the means of ``compare.json``; numbers that differ, that none stands for another."""
    values = {"r2": r2, "r2_null": -0.5, "cka_debiased": 0.4, "ssim": 0.3, "ssim_null": 0.01}
    errors = {"r2": 0.02, "r2_null": 0.03, "ssim": 0.004}
    return {
        **which,
        "step": step,
        "values": values,
        "standard_errors": errors,
        "std_over_runs": {"r2": 0.07},
        "num_runs": 2,
    }


def write_comparison(folder: Path) -> None:
    """What ``probediff compare`` leaves, as far as reports read it."""
    means = []
    for step in STEPS:
        for place, name in enumerate(("h=0", "h=1", "local", "nearest", "wiener", "optimal", "pca_locality")):
            r2 = place / 10 - 1 / (1 + step)
            means.append(comparison_mean(step, r2, predictor="denoiser", denoiser=name, images=100 + place))
        means.append(comparison_mean(step, 0.9, predictor="another seed"))
        means.append(comparison_mean(step, step / 1000, predictor="own final samples"))
    folder.mkdir(parents=True)
    result = {"conventions": conventions(), "runs": [{"name": "seed0"}, {"name": "seed1"}], "left_out": []}
    (folder / "compare.json").write_text(json.dumps({**result, "means": means}))


def write_exact(run: Path, name: str, offset: float, num_steps: int = 100, **options: Any) -> Path:
    """What ``probediff probe exact:RUN,...`` adds below a run."""
    folder = run / "probes" / name / f"num_steps={num_steps:04d}"
    probes = (
        "inversion_angles",
        "assignment_accuracy",
        "pixel_correlation",
        "trajectory_heatmap",
        "network_similarity",
    )
    how = {"denoiser": "smoothed_empirical", "fitted_to": 50_000, "num_steps": num_steps} | options
    write_records(folder, probes, (0,), offset, False, **how)
    write_files(folder, (0,), 0)
    return folder


def write_whitening(folder: Path) -> None:
    """What ``probediff whitening`` writes but for its pictures, of a Gaussian of 4x4 images."""
    images = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)).cumsum(dim=-1)
    found = moments([images])
    statistics = WhiteningTransform.from_covariance(found.mean, found.covariance)
    gaussian = GaussianNoises(statistics, NoiseSchedule.cosine(40))
    plan = Plan([1, 5], 39, [39], [8], 20, 2, 0)
    values = analyse(None, gaussian, images, plan).record()
    how = {
        "num_images": 40,
        "num_fixed_points": 40,
        "alpha_bar": 0.001,
        "start": "zero",
        "tolerance": 0.0,
        "ridge": 0.0,
    }
    how |= {"denoiser": "gaussian", "step": 1000, "timestep": 39, "counts": [1, 5]}
    folder.mkdir(parents=True)
    written = {"conventions": conventions(**how), "in_words": "slope -0.01", **values}
    (folder / "whitening.json").write_text(json.dumps(written))
