"""What the project promises about its own shape."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("probediff", "callbacks") for path in (ROOT / package).rglob("*.py"))


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) < 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60 or node.name == "__init__", node.name


def class_paths(value: object) -> list[str]:
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == "class_path"] + [p for v in value.values() for p in class_paths(v)]
    return [p for v in value for p in class_paths(v)] if isinstance(value, list) else []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_class_path_resolves(path: Path) -> None:
    paths = class_paths(yaml.safe_load(path.read_text()))
    assert paths
    for name in paths:
        module, _, attribute = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), attribute), type)


def test_the_mathematics_works_without_lightning_or_wandb() -> None:
    """The public names for notebooks, in a process where the frameworks cannot be imported."""
    code = """
import sys
for name in ("lightning", "wandb", "torchmetrics", "torchvision", "jsonargparse"):
    sys.modules[name] = None
from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser, UNet, load_openai
from probediff.diffusion import hybrid_loss, simple_loss
from probediff.measures import assignment_accuracy, cka, ssim, svcca, top_k_correlation, triangle_angles
from probediff.noise import seeded_noise
from probediff.schedule import NoiseSchedule
import torch
schedule = NoiseSchedule.cosine(40)
noise = seeded_noise(0, range(5), (1, 8, 8))
denoiser = GaussianDenoiser(torch.zeros(64), torch.eye(64) * 0.25, schedule)
x_0 = ddim_sample(denoiser, schedule, noise, num_steps=10)
latent = ddim_invert(denoiser, schedule, x_0, num_steps=10)
print(triangle_angles(noise, x_0, latent).at_image_deg.shape, assignment_accuracy(noise, x_0).image_to_noise)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["torch.Size([5])", "1.0"], done.stderr


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_runs_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("probediff-*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True)
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    for path in SOURCES:
        assert path.relative_to(ROOT).as_posix() in names
    assert {"probediff/py.typed", "callbacks/py.typed"} <= names
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import probediff.commands.fit as cli; "
        "print(cli.__file__, len(cli.available_probes()))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [str(target / "probediff" / "cli.py"), "12"], done.stderr
