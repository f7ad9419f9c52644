"""Probes of installed packages, and classes that a configuration names: in fit, probe, report, dashboard and --help."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from probediff.commands import outside_probes
from probediff.commands.fit import fit
from probediff.commands.options import available_probes
from probediff.commands.probe import build_parser, probe
from probediff.dashboard.specification import specification
from probediff.probing.replay import compare_with_run
from probediff.report import outside
from probediff.report.groups import group_runs
from probediff.report.parts import Section
from probediff.report.sources import read_runs
from probediff.runs.folder import RunFolder
from tests.conftest import ROOT, TINY_RUN

HERE = "tests.commands.outside"
GROUP = outside_probes.GROUP


def section_of(run: Path) -> Section:
    """What a report says of them."""
    return outside.outside_probes(group_runs(read_runs([run])))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a probe, and others that cannot be used."""
    points = [
        EntryPoint("brightness", f"{HERE}:Brightness", GROUP),
        EntryPoint("gone", "no_such_module:Probe", GROUP),
        EntryPoint("none", f"{HERE}:NoProbe", GROUP),
        EntryPoint("taken", "probediff.callbacks:InversionAngles", GROUP),
    ]
    monkeypatch.setattr(outside_probes, "entry_points", lambda group: points)


@pytest.mark.filterwarnings("ignore:the probe")
def test_they_are_measured_shown_and_replayed(
    installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, callbacks = tmp_path / "run", f"[{{class_path: {HERE}.Contrast}}]"
    options = [*TINY_RUN, "--brightness.factor", "2", f"--trainer.callbacks={callbacks}", "--run_dir", str(run)]
    assert fit(["--config", str(ROOT / "configs" / "digits.yaml"), *options]) == 0
    found = {record["probe"] for record in RunFolder(run).records()}
    assert {"brightness", "contrast"} <= found
    capsys.readouterr()
    replay = ["--num_steps", "8", "--device", "cpu", "--progress", "false"]
    with pytest.warns(UserWarning, match="left out: contrast, .*give --trust"):
        assert probe([str(run), *replay, "--out", str(tmp_path / "untrusted")]) == 0
    assert probe([str(run), *replay, "--trust"]) == 0
    replayed = RunFolder(run / "probes" / "replay" / "num_steps=0008")
    comparison = compare_with_run(replayed, run)
    assert comparison.equal == comparison.compared > 0 and not comparison.settings
    assert {"brightness", "contrast"} <= {record["probe"] for record in replayed.records()}
    shown = section_of(run)
    assert {figure.name for figure in shown.figures} == {
        "outside_brightness", "outside_contrast", "outside_brightness_first_1",
    }  # fmt: skip
    assert sorted(words.partition(":")[0] for words in shown.text) == ["brightness", "contrast"]
    keys = {"probe/contrast/std": "number", "probe/brightness/first": "picture"}
    panels = [key for section in specification(keys) for panel in section.panels for key in panel.keys]
    assert sorted(panels) == sorted(keys)


def test_what_cannot_be_used_is_left_out_and_named(installed: None) -> None:
    with pytest.warns(UserWarning) as warnings:
        probes = available_probes()
    words = " | ".join(str(warning.message) for warning in warnings)
    assert "brightness" in probes and "gone" not in probes
    assert "the probe gone of an installed package is left out: ModuleNotFoundError" in words
    assert "must be a subclass of probediff.callbacks.Probe" in words
    assert "its key inversion_angles must be free" in words


@pytest.mark.filterwarnings("ignore:the probe")
def test_they_have_their_options_in_the_help(installed: None) -> None:
    assert "--brightness.factor" in build_parser().format_help()


def test_a_report_without_them_has_no_such_section(tiny_run: Path) -> None:
    assert section_of(tiny_run).is_empty and not section_of(tiny_run).text


def test_the_package_of_the_page_brings_its_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the entry points as docs/probes.md writes them, in a package that pip would have installed."""
    page = (ROOT / "docs" / "probes.md").read_text()
    (declared,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    (group,) = tomllib.loads(declared)["project"]["entry-points"].items()
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "PixelRange" in block]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "probes.py").write_text(code)
    installed_files = tmp_path / "my_package-1.0.dist-info"
    installed_files.mkdir()
    (installed_files / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [f"[{group[0]}]", *(f"{name} = {value}" for name, value in group[1].items())]
    (installed_files / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert available_probes()["pixel_range"].__module__ == "my_package.probes"


def test_a_class_that_is_gone_is_left_out_and_named(tmp_path: Path) -> None:
    gone = "trainer: {callbacks: [{class_path: gone.Contrast}, {class_path: %s.Contrast}]}"
    RunFolder(tmp_path).config_path.write_text(gone % HERE)
    with pytest.warns(UserWarning, match=r"left out: a probe of .*config.yaml must name a class .*'gone.Contrast'"):
        (probe,) = outside_probes.foreign_probes(tmp_path, [], trust=True)
    assert probe.name() == "contrast"
