"""What the project promises about its own shape."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from importlinter.cli import lint_imports

from tests.reference.make_golden_keys import call, flat_keys

ROOT = Path(__file__).parents[1]
PACKAGE = sorted(path for folder in ("probediff", "callbacks") for path in (ROOT / folder).rglob("*.py"))
SOURCES = [*PACKAGE, *sorted((ROOT / "tests").rglob("*.py"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
MAX_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_LOOSE_MODULES = 300, 60, 7, 9

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> Iterator[Function]:
    """All functions and methods of a file, those within others included."""
    return (node for node in ast.walk(parse(path)) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def num_parameters(function: Function) -> int:
    """Parameters beside ``self`` and ``cls``."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


def test_one_contract_orders_all_rooms_without_exceptions() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (contract for contract in linter["contracts"] if contract["type"] == "layers")
    assert layers["exhaustive"] is True
    rooms = {path.stem for path in (ROOT / "probediff").iterdir() if path.is_dir() or path.suffix == ".py"}
    rooms -= {"__pycache__", "__init__", "__main__"}
    assert {name for layer in layers["layers"] for name in layer.split(" | ")} == rooms
    for contract in linter["contracts"]:
        assert not {"ignore_imports", "allow_indirect_imports"} & contract.keys()


def test_few_modules_lie_loose() -> None:
    loose = sorted(path.name for path in (ROOT / "probediff").glob("*.py"))
    assert len(loose) <= MAX_LOOSE_MODULES, loose


def test_the_callbacks_are_one_folder_by_a_relative_link() -> None:
    link = ROOT / "probediff" / "callbacks"
    assert link.is_symlink() and link.readlink() == Path("../callbacks")


def test_files_and_functions_stay_small() -> None:
    files = {relative(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > MAX_LINES}
    assert not files
    named = {f"{relative(path)}: {function.name}": function for path in SOURCES for function in functions(path)}
    long = {name: n for name, function in named.items() if (n := body_lines(function)) > MAX_FUNCTION_LINES}
    assert not long


def test_functions_take_few_parameters() -> None:
    """But for constructors: a configuration file sets their arguments by name."""
    many = {
        f"{relative(path)}: {function.name}": count
        for path in PACKAGE
        for function in functions(path)
        if (count := num_parameters(function)) > MAX_PARAMETERS and function.name != "__init__"
    }
    assert not many


def test_every_module_says_what_it_is_for() -> None:
    silent = [relative(path) for path in SOURCES if path.read_text() and not ast.get_docstring(parse(path))]
    assert not silent


def test_deprecations_are_errors_in_our_own_code_only() -> None:
    for module in ("probediff.ddim", "probediff.callbacks.angles", "tests.test_house"):
        with pytest.raises(DeprecationWarning, match="old"):
            warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module=module)
    warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module="lightning.pytorch")


def class_paths(value: object) -> list[str]:
    """All values of keys ``class_path``, however deep."""
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == "class_path"] + [p for v in value.values() for p in class_paths(v)]
    return [p for v in value for p in class_paths(v)] if isinstance(value, list) else []


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_every_class_path_resolves(path: Path) -> None:
    names = class_paths(yaml.safe_load(path.read_text()))
    assert names or path.parent.name == "fragments"
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), attribute), type)


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_every_sweep_parameter_is_a_key_of_the_configuration(path: Path) -> None:
    """And so is every option of the command that the sweep starts."""
    sweep: dict[str, Any] = yaml.safe_load(path.read_text())
    words = [str(word) for word in sweep["command"]]
    config = ROOT / words[words.index("--config") + 1]
    keys = set(flat_keys(yaml.safe_load(call("fit", "--config", config, "--print_config"))))
    options = {match[1] for word in words if (match := re.match(r"--([\w.]+)", word))} - {"config"}
    for name in options | sweep["parameters"].keys():
        # An argument of the data class can be named without the level between.
        assert {name, re.sub(r"^data\.(?!init_args)", "data.init_args.", name)} & keys, name


def test_mathematics_and_probe_passes_work_without_lightning_or_wandb() -> None:
    """The public names for notebooks, in a process where the frameworks cannot be imported."""
    code = """
import sys
for name in ("lightning", "wandb", "torchmetrics", "torchvision", "jsonargparse"):
    sys.modules[name] = None
from probediff.ddim import ddim_invert, ddim_sample
from probediff.denoisers import GaussianDenoiser, UNet, load_openai
from probediff.diffusion import hybrid_loss, simple_loss
from probediff.measures import assignment_accuracy, cka, ssim, svcca, top_k_correlation, triangle_angles
from probediff.models import ProbeModel
from probediff.models.base import conventions_of
from probediff.noise import seeded_noise
from probediff.probing import PassSettings, Probe, ProbeContext, ProbePass, afterwards
from probediff.probing.shared_pass import run_pass
from probediff.schedule import NoiseSchedule
import torch
schedule = NoiseSchedule.cosine(40)
noise = seeded_noise(0, range(5), (1, 8, 8))
denoiser = GaussianDenoiser(torch.zeros(64), torch.eye(64) * 0.25, schedule)
x_0 = ddim_sample(denoiser, schedule, noise, num_steps=10)
latent = ddim_invert(denoiser, schedule, x_0, num_steps=10)
print(triangle_angles(noise, x_0, latent).at_image_deg.shape, assignment_accuracy(noise, x_0).image_to_noise)
conventions = conventions_of(denoiser, "cosine", schedule, (1, 8, 8))
event = run_pass(ProbeModel(denoiser, schedule, (1, 8, 8), 0, conventions), PassSettings(num_samples=5, num_steps=10))
print(event.latent.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["torch.Size([5])", "1.0", "torch.Size([5,", "1,", "8,", "8])"], done.stderr
