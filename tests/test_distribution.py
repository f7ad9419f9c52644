"""What is installed is ``probediff`` alone, and it works outside the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pytest

from probediff import __version__

ROOT = Path(__file__).parents[1]
#: What a distribution is built from.
TREE = ("probediff", "callbacks", "pyproject.toml", "README.md", "LICENSE")


def run_python(
    *arguments: str | Path, folder: Path, python: str | Path = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Runs Python in ``folder``, and shows what it said where it failed."""
    process = subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process


def test_a_strangers_folder_of_callbacks_is_left_alone(tmp_path: Path) -> None:
    """``python -m`` puts the current folder first in the path; a project with callbacks of its own must not matter."""
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").write_text("raise RuntimeError('the callbacks of another project')\n")
    process = run_python("-m", "probediff", "fit", "--help", folder=tmp_path)
    assert "--probing.settings.num_samples" in process.stdout
    assert "--inversion_angles.enabled" in process.stdout


def copy_tree(target: Path) -> Path:
    """Copies what a distribution is built from, links as links."""
    target.mkdir()
    for name in TREE:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target)
    return target


def sources() -> set[str]:
    """Files of the package as they lie in a wheel, those behind the symbolic link included."""
    rooms = [ROOT / "probediff", *(path for path in (ROOT / "probediff").iterdir() if path.is_dir())]
    paths = {path for room in rooms for path in room.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    return {path.relative_to(ROOT).as_posix() for path in paths}


def top_levels(names: Iterable[str]) -> set[str]:
    """First parts of paths."""
    return {PurePosixPath(name).parts[0] for name in names}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source distribution of the working tree, a wheel of it, and a wheel of the source distribution."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("distributions")
    tree, dist = copy_tree(folder / "tree"), folder / "dist"
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(dist)!r})"
    run_python("-c", code, folder=tree)
    (sdist,) = dist.glob("*.tar.gz")
    built = {"sdist": sdist}
    for name, source in (("wheel", tree), ("wheel of the sdist", sdist)):
        target = folder / name
        pip = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", target, source]
        run_python(*pip, folder=folder)
        (built[name],) = target.glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "wheel of the sdist"])
def test_a_wheel_holds_probediff_alone(distributions: dict[str, Path], kind: str) -> None:
    with zipfile.ZipFile(distributions[kind]) as wheel:
        names = set(wheel.namelist())
    assert top_levels(names) == {"probediff", f"probediff-{__version__}.dist-info"}
    assert sources() == {name for name in names if name.startswith("probediff/")}
    assert {"probediff/py.typed", "probediff/callbacks/coordinator.py", "probediff/report/page.css"} <= names


@pytest.mark.slow
def test_the_source_distribution_holds_the_package_without_links(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.islnk() or member.issym()]
    names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix() for member in members}
    assert sources() | {"pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment, which sees the libraries of this one, but no installed project."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (libraries,) = {path for path in sys.path if (Path(path) / "torch" / "__init__.py").exists()}
    # Files *.pth in the folder named here do not count, so that nothing leads back to the repository.
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path, folder: Path) -> None:
    """Installs without dependencies, by the pip of this environment."""
    pip = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run_python(*pip, "--force-reinstall", *what, folder=folder)


def fit_in_miniature(python: Path, folder: Path) -> str:
    """Trains two steps on the digits in ``folder``; returns the place of the package, the only one of the project."""
    folder.mkdir()
    options = [
        *("--config", ROOT / "configs" / "digits.yaml", "--run_dir", "run", "--wandb.mode", "disabled"),
        *("--trainer.max_steps", "2", "--network.channels", "8", "--trainer.accelerator", "cpu"),
        *("--probing.settings.num_samples", "12", "--probing.settings.num_steps", "2"),
    ]
    run_python("-P", "-m", "probediff", "fit", *options, folder=folder, python=python)
    assert {path.name for path in folder.iterdir()} == {"run"}
    assert (folder / "run" / "checkpoints" / "step=00000002.ckpt").exists()
    assert (folder / "run" / "records.jsonl").read_text().count('"probe": "inversion_angles"') == 2
    code = "import importlib.util, probediff; print(probediff.__file__, importlib.util.find_spec('callbacks'))"
    place, callbacks = run_python("-P", "-c", code, folder=folder, python=python).stdout.split()
    assert callbacks == "None"
    return place


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "wheel of the sdist"])
def test_it_trains_from_an_empty_folder(
    distributions: dict[str, Path], empty_environment: Path, tmp_path: Path, kind: str
) -> None:
    install(empty_environment, distributions[kind], folder=tmp_path)
    place = fit_in_miniature(empty_environment, tmp_path / "empty")
    assert Path(place).is_relative_to(empty_environment.parents[1])
    assert not Path(place).is_relative_to(ROOT)


@pytest.mark.slow
def test_an_editable_installation_trains_too(empty_environment: Path, tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    install(empty_environment, "-e", tree, folder=tmp_path)
    assert Path(fit_in_miniature(empty_environment, tmp_path / "empty")) == tree / "probediff" / "__init__.py"
