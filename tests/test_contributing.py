"""The rules of CONTRIBUTING.md: each names its test, and those that no other file holds are held here."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from probediff import data, measures

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
SOURCES = [path for path in (ROOT / "probediff").rglob("*.py") if "callbacks" not in path.parts]
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for path in sorted([*SOURCES, *(ROOT / "callbacks").glob("*.py")])
}
RULES = re.findall(r"^- .*(?:\n  .*)*", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
#: Functions of torch, and methods of tensors, that draw from the global state unless they get a generator.
DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "normal", "bernoulli", "multinomial"}
IN_PLACE = {"normal_", "uniform_", "random_", "exponential_", "bernoulli_"}
#: What of W&B has a file of its own.
W_AND_B = ("artifacts", "files", "media", "settings")
SEEDS = {"torch.manual_seed", "torch.cuda.manual_seed", "random.seed", "np.random.seed"}


def calls() -> Iterator[tuple[str, ast.Call, str, list[str]]]:
    """Dotted name, node and file of every call, with the contexts (``with``) that it stands in."""

    def walk(node: ast.AST, contexts: list[str]) -> Iterator[tuple[ast.Call, list[str]]]:
        if isinstance(node, ast.Call):
            yield node, contexts
        if isinstance(node, ast.With):
            contexts = [*contexts, *(ast.unparse(item) for item in node.items)]
        for child in ast.iter_child_nodes(node):
            yield from walk(child, contexts)

    for path, tree in TREES.items():
        for call, contexts in walk(tree, []):
            yield ast.unparse(call.func), call, path, contexts


def imported_modules(nodes: list[ast.stmt] | Iterator[ast.AST]) -> set[str]:
    """First parts of the names of all modules that ``nodes`` import."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[2:42])
def test_every_rule_names_the_test_that_holds_it(rule: str) -> None:
    tests = re.findall(r"`([\w/]+\.py)::(\w+)`", rule)
    assert tests
    for file, name in tests:
        tree = ast.parse((TESTS / file).read_text())
        assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_the_table_names_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where things live")[2].partition("\n\n`callbacks/`")[0]
    named = {
        room.strip("/")
        for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for room in re.findall(r"`([^`]+)`", row)
    }
    rooms = {
        path.stem
        for path in (ROOT / "probediff").iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    assert named == rooms


def test_wandb_is_imported_where_it_is_used() -> None:
    importing = {
        path for path, tree in TREES.items() if imported_modules(ast.walk(tree)) & {"wandb", "wandb_workspaces"}
    }
    runs = {"probediff/runs/loggers.py", *(f"probediff/runs/wandb_{name}.py" for name in W_AND_B)}
    assert runs < importing
    for path in importing:
        assert path in runs or path.startswith("probediff/dashboard/")
        assert not imported_modules(TREES[path].body) & {"wandb", "wandb_workspaces"}, path


def test_docstrings_are_checked() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "D" in lint["select"]
    assert "D417" not in lint["ignore"]


def test_one_file_a_probe() -> None:
    for path in sorted((ROOT / "callbacks").glob("*.py")):
        classes = [node for node in TREES[f"callbacks/{path.name}"].body if isinstance(node, ast.ClassDef)]
        probes = [c.name for c in classes if any(ast.unparse(base).endswith("Probe") for base in c.bases)]
        assert len(probes) <= 1, path


def test_data_modules_are_exported() -> None:
    bases = {"ImageDataModule", "ImageFolder"}
    defined = {
        node.name
        for path, tree in TREES.items()
        for node in tree.body
        if path.startswith("probediff/data/")
        and isinstance(node, ast.ClassDef)
        and bases & {ast.unparse(base) for base in node.bases}
    }
    assert len(defined) >= 7
    assert defined <= set(data.__all__)


def test_measures_touch_no_file() -> None:
    for path, tree in TREES.items():
        if path.startswith("probediff/measures/"):
            assert not imported_modules(ast.walk(tree)) & {"os", "io", "pathlib", "tempfile", "shutil"}, path
    assert not [path for name, _, path, _ in calls() if path.startswith("probediff/measures/") and name == "open"]


def test_measures_are_tested() -> None:
    trees = [ast.parse(path.read_text()) for path in (TESTS / "measures").glob("test_*.py")]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {name for name in measures.__all__ if inspect.isfunction(getattr(measures, name))} <= used


def test_random_numbers_are_keyed() -> None:
    for name, call, path, contexts in calls():
        where = f"{path}: {ast.unparse(call)}"
        owner, _, function = name.rpartition(".")
        if name in SEEDS:
            assert any("fork_rng" in context for context in contexts), where
        elif (owner == "torch" and function in DRAWS) or (owner != "nn.init" and function in IN_PLACE):
            assert any(keyword.arg in (None, "generator") for keyword in call.keywords), where


def test_nothing_is_unpickled() -> None:
    for name, call, path, _ in calls():
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in ("pickle.load", "pickle.loads", "joblib.load"), path
        assert name != "torch.load" or options.get("weights_only") == "True", path
        assert name != "np.load" or options.get("allow_pickle") == "False", path


def test_names_of_the_field() -> None:
    others = {"x0", "xt", "xT", "x_start", "alphas_cumprod", "alpha_cumprod", "epsilon", "noise_pred", "timestamp"}
    for path, tree in TREES.items():
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        assert not names & others, path


def test_errors_say_what_came() -> None:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and ast.unparse(node.exc.func) == "ValueError"
            ):
                varies = any(isinstance(part, ast.FormattedValue) for part in ast.walk(node.exc))
                assert varies or re.search(r"--\w|must|needs", ast.unparse(node.exc)), (
                    f"{path}: {ast.unparse(node.exc)}"
                )
