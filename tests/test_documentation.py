"""README and docs: what they say to type exists, what they link to is there, what they show runs."""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml

from probediff import __version__, data
from probediff.__main__ import COMMANDS, main
from probediff.commands.fit import available_probes
from probediff.denoisers import UNet
from probediff.runs.folder import RunFolder
from tests.conftest import TINY_RUN

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "tables")
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
P1 = "https://arxiv.org/abs/2410.23530"
P2 = "https://openreview.net/forum?id=2xljvcYOLm"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def typed_commands() -> Iterator[tuple[str, list[str]]]:
    """Page and arguments of everything that the pages show as typed at a shell."""
    for path in PAGES:
        for block in blocks(path, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while "probediff" in words:
                    words = words[words.index("probediff") + 1 :]
                    end = next((i for i, word in enumerate(words) if word in ("&&", "||", "|", ";", "&")), len(words))
                    yield relative(path), words[:end]
                    words = words[end:]


TYPED = list(typed_commands())


class Parsed(BaseException):
    """The arguments were understood."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands stop as soon as their parser has accepted the arguments."""
    depth = 0

    def stop_after(parser: type[argparse.ArgumentParser]) -> None:
        original = parser.parse_args

        def parse_args(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
            nonlocal depth
            depth += 1
            try:
                result = original(self, *arguments, **options)
            finally:
                depth -= 1
            if depth == 0:
                raise Parsed
            return result

        monkeypatch.setattr(parser, "parse_args", parse_args)

    stop_after(argparse.ArgumentParser)
    stop_after(jsonargparse.ArgumentParser)


@pytest.mark.parametrize(("page", "arguments"), TYPED, ids=[f"{page}: {' '.join(words)}" for page, words in TYPED])
def test_what_the_pages_say_to_type_is_understood(
    page: str, arguments: list[str], parse_only: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The file that docs/train.md shows.
    (tmp_path / "net.py").write_text(blocks(ROOT / "docs" / "train.md", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    assert arguments[0] in COMMANDS
    with pytest.raises(Parsed):
        main(arguments)
    sys.modules.pop("net", None)


def test_every_command_is_shown_at_work() -> None:
    assert {arguments[0] for _, arguments in TYPED} == set(COMMANDS)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_commands_and_targets_named_in_the_text_exist(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"`probediff ([a-z][\w-]*)", text)) <= set(COMMANDS)
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    typed = [line for block in blocks(path, "sh") for line in block.splitlines()]
    assert set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", "\n".join([text, *typed]), re.MULTILINE)) <= set(targets)


def test_options_are_called_as_the_help_calls_them(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in [[name] for name in COMMANDS if name != "prepare"] + [["prepare", "imagenet64"], ["prepare", "stream"]]:
        with pytest.raises(SystemExit):
            sys.exit(main([*verb, "--help"]))
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    known |= {f"--data.{name}" for cls in data_modules().values() for name in inspect.signature(cls).parameters}
    typed = {word.partition("=")[0] for _, arguments in TYPED for word in arguments if word.startswith("--")}
    # Classes of one's own and their arguments are read by the test above.
    typed -= {word for word in typed if re.match(r"--(network|optimizer|lr_scheduler)\.", word)}
    assert typed <= known
    for path in [README, *DOCS]:
        named = set(re.findall(r"`(--[\w.]+)[^`]*`", path.read_text()))
        assert named <= known, path


def links_of(path: Path) -> list[str]:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    return [link for link in links if not link.startswith("https://")]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links_of(path):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in [slug(heading) for heading in re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_every_page_is_linked_to(path: Path) -> None:
    others = [other for other in PAGES if other != path]
    links = [(other.parent / link).resolve() for other in others for link in links_of(other)]
    assert path.resolve() in links


def test_the_readme_is_one_page_and_links_both_papers() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 130
    assert P1 in text
    assert P2 in text


def first_column(path: Path, heading: str) -> list[str]:
    """What stands as code in the first column of the table whose first heading is ``heading``."""
    _, _, table = path.read_text().partition(f"| {heading} |")
    table, _, _ = table.partition("\n\n")
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def test_the_tables_are_complete() -> None:
    assert sorted(first_column(README, "command")) == sorted(COMMANDS)
    for path in (README, ROOT / "docs" / "probes.md"):
        assert sorted(first_column(path, "key")) == sorted(available_probes())
    assert sorted(first_column(ROOT / "docs" / "data.md", "`--data`")) == sorted(data_modules())


def data_modules() -> dict[str, type]:
    exported = {name: getattr(data, name) for name in data.__all__}
    return {
        name: value
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, data.ImageDataModule) and value is not data.ImageDataModule
    }


def run_without_frameworks(code: str, folder: Path) -> str:
    blocked = "import sys\nfor name in ('lightning', 'wandb', 'torchmetrics'): sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    code, _ = blocks(README, "python")
    printed = run_without_frameworks(code, tmp_path).splitlines()
    assert [line.split(": ")[1] for line in printed] == re.findall(r"^print.*  # (.*)$", code, re.MULTILINE)


def test_the_notebook_with_a_published_network_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs" / "notebook.md", "python")
    network = UNet(image_size=32, channels=32, channel_mult=(1, 1), num_res_blocks=1, attention_resolutions=(16,))
    torch.save(network.state_dict(), tmp_path / "cifar10_uncond_50M_500K.pt")
    assert run_without_frameworks(code.replace("range(64)", "range(3)").replace("=100", "=4"), tmp_path)


def test_the_lightning_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks(ROOT / "docs" / "probes.md", "python") if "L.Trainer(" in block]
    smaller = {"max_steps=500": "max_steps=3", "(10, 100)": "(2,)", "num_samples=200": "num_samples=5"}
    for usual, small in smaller.items():
        assert usual in code
        code = code.replace(usual, small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "probes.md", "exec"), {})
    records = (tmp_path / "runs" / "mine" / "records.jsonl").read_text()
    assert records.count('"probe": "inversion_angles"') == 3


def test_the_example_of_monitoring_stops_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = blocks(ROOT / "docs" / "watch_and_dashboards.md", "yaml")
    (tmp_path / "monitoring.yaml").write_text(
        config.replace("save_dir: csv", f"save_dir: {tmp_path}").replace("0.99", "0.95")
    )
    options = ["--config", str(ROOT / "configs" / "digits.yaml"), "--config", str(tmp_path / "monitoring.yaml")]
    assert main(["fit", *options, *TINY_RUN, "--trainer.max_steps=60", "--run_dir", str(tmp_path / "run")]) == 0
    folder = RunFolder(tmp_path / "run")
    assert folder.is_finished() and folder.last_recorded_step() == 20, (
        "the first check at which they have changed little"
    )
    (best,) = (tmp_path / "run" / "model_checkpoints").iterdir()
    assert best.suffix == ".ckpt"
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert "probe/checkpoint_similarity/ssim" in metrics.read_text().splitlines()[0]


def test_a_model_of_ones_own_is_probed(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "probe_any_model.md", "python")
    exec(compile(code, "probe_any_model.md", "exec"), {"__name__": "example"})
    assert "at_image_mean_deg" in capsys.readouterr().out


def test_the_version_stands_in_one_place() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    code = "import sys; from probediff.__main__ import main; main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["probediff", __version__, "False"]


def test_the_papers_can_be_cited() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert [reference["url"] for reference in citation["references"]] == [P1, P2]


def test_continuous_integration_runs_the_same_targets() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make lint", "make test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True)
    phony = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = re.findall(r"^make ([\w-]+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(" ".join(phony).split())


@pytest.mark.slow
def test_the_published_tables_follow_from_the_published_records(tmp_path: Path) -> None:
    results = ROOT / "docs" / "results"
    assert main(["report", str(results / "cifar10_small"), "--out", str(tmp_path)]) == 0
    tables = sorted((results / "report" / "tables").iterdir())
    assert tables
    for path in tables:
        assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes(), path.name
