"""Which form ``network`` has on the command line, and what is said of classes and arguments that cannot be."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from probediff.__main__ import main
from probediff.commands.own_classes import leave_out_sizes, names_network_class
from tests.conftest import ROOT, TINY_RUN

DIGITS = str(ROOT / "configs" / "digits.yaml")
NETS = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, kernel: int = 3, **others):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, kernel, padding=1)

    def forward(self, x, timestep):
        return self.layer(x)


class NoTime(Plain):
    def forward(self, x):
        return self.layer(x)


class Three(Plain):
    def forward(self, x, timestep):
        return self.layer(x).repeat(1, 3, 1, 1)


class Rows(Plain):
    def forward(self, x, timestep):
        return self.layer(x)[:, :, ::2]


class NotFinite(Plain):
    def forward(self, x, timestep):
        return self.layer(x) / 0


class Several(Plain):
    def forward(self, x, timestep):
        return self.layer(x), x


class Writes(Plain):
    def forward(self, x, timestep):
        return self.layer(x.mul_(2))


class Index(Plain):
    def forward(self, x, timestep):
        return self.layer(x)[torch.tensor([9])]


class Odd(nn.Module):
    def __init__(self, width: int):
        raise KeyError("odd")


class Empty(nn.Module):
    pass


def make():
    return Plain()
"""
SCHEDULER = "--lr_scheduler torch.optim.lr_scheduler"
PLATEAU = "--lr_scheduler lightning.pytorch.cli.ReduceLROnPlateau"
REFUSED = {
    "--network nets.Plain": r"loss 'hybrid' needs a network with 2 output .* got 1; use loss 'simple' \(--model.loss",
    "--network nets.NoTime": r"--network must predict the noise, \(B, 1 or 2, 8, 8\), .* got TypeError: .*forward\(\)",
    "--network nets.Three": r"--network must predict .* got \(2, 3, 8, 8\)",
    "--network nets.Rows": r"--network must predict .* got \(2, 1, 4, 8\)",
    "--network nets.NotFinite": "--network must predict .* got numbers that are not finite",
    "--network nets.Several": "--network must predict .* got ValueError: the network must return .* got a tuple",
    "--network nets.Writes": "--network must leave its input as it is, got Writes, which writes into it",
    "--network nets.Index": r"--network must predict .* got IndexError: .*nets.py:\d+\)",
    "--network nets.Odd --network.width 3": "--network must be made with arguments that it takes, got KeyError: 'odd'",
    "--network nets.Odd": "--network.width must be given for nets.Odd, got none; see --network.help nets.Odd",
    "--network nets.Odd --network.width x": "--network.width must be a whole number, got 'x'",
    "--network nets.Odd --network.depth 1": "--network.depth must be an option of nets.Odd, which has none",
    "--network nets.Empty": "--network must be a torch.nn.Module with parameters to train, got Empty",
    "--network nets.make": "--network must be a class, got 'nets.make'; a torch.nn.Module, such as",
    "--network nets.Nothing": "--network must be a class that can be imported, got nets.Nothing: module 'nets' has no",
    "--network nowhere.Net": "--network must be a class that can be imported, got nowhere.Net: No module named",
    "--network broken.Net": "--network must be a class that can be imported, got broken.Net: SyntaxError",
    "--network torch.optim.SGD": "--network must be a class, got 'torch.optim.SGD'",
    "--network Linear": "--network must be the whole path of a class, got Linear; such as torch.nn.Linear,",
    f"--network nets.Plain --config {DIGITS}": "network must be the class nets.Plain or the sizes .* after the class",
    "--optimizer SGDD": "--optimizer must be a class, got 'SGDD'; such as torch.optim.SGD",
    "--optimizer torch.nn.Linear": "--optimizer must be a class, got 'torch.nn.Linear'",
    "--optimizer SGD --optimizer.lr -1": "--optimizer must be made with arguments .* Invalid learning rate: -1.0",
    "--optimizer SGD --optimizer.rate 1": "--optimizer.rate must be an option of torch.optim.SGD",
    "--optimizer SGD --model.learning_rate 1": "--model.learning_rate must be left out .* give --optimizer.lr",
    f"{SCHEDULER}.StepLR": "--lr_scheduler.step_size must be given for torch.optim.lr_scheduler.StepLR, got none",
    f"{SCHEDULER}.CosineAnnealingLR --lr_scheduler.T_max 0": "--lr_scheduler must be made with .* ZeroDivisionError",
    f"{SCHEDULER}.ReduceLROnPlateau": "--lr_scheduler.monitor must be train/loss, got None; .*lightning.pytorch",
    f"{PLATEAU} --lr_scheduler.monitor val": "--lr_scheduler.monitor must be train/loss, got val",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with modules that are not installed."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("nets", None)


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_one_line_before_anything_is_written(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [option for option in TINY_RUN if not option.startswith("--network")]
    try:
        status = main(["fit", "--config", DIGITS, *tiny, "--run_dir", str(folder / "run"), *shlex.split(words)])
    except SystemExit as stop:
        status = stop.code
    assert status
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert re.search(REFUSED[words], line), line
    assert not (folder / "run").exists()


CLASS = {"network": {"class_path": "nets.Plain", "init_args": {"kernel": 3}}}
SIZES = {"network": {"channels": 8}}


@pytest.mark.parametrize(
    ("arguments", "is_class"),
    [
        ([], False),
        (["--network.channels=8"], False),
        (["--config", "sizes.yaml"], False),
        (["--config=sizes.yaml", "--network.channels", "8"], False),
        (["--network", "sizes.json"], False),
        (["--network", "{channels: 8}"], False),
        (["--network", "8"], False),
        (["--network", "null"], False),
        (["--network"], False),
        (["--network", "absent.yaml"], False),
        (["--config", "class.yaml"], True),
        (["--conf", "class.yaml"], True),
        (["--config", "sizes.yaml", "--config", "class.yaml"], True),
        (["--config", "class.yaml", "--config", "others.yaml", "--network.kernel=5"], True),
        (["--config", "class.yaml", "--config", "more.yaml"], True),
        (["--config", "sizes.yaml", "--network", "nets.Plain"], True),
        (["--config", "sizes.yaml", "--network=nets.Plain"], True),
        (["--network.class_path", "nets.Plain"], True),
        (["--network", "{class_path: nets.Plain}"], True),
        (["--network", "class.json"], True),
        (["--network.help", "nets.Plain"], True),
    ],
)
def test_the_form_follows_from_arguments_and_configurations(arguments: list[str], is_class: bool, folder: Path) -> None:
    more = {"network": {"init_args": {"kernel": 5}}}
    files = {"sizes": SIZES, "class": CLASS, "others": {"model": {"loss": "simple"}}, "more": more}
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        (folder / f"{name}.json").write_text(yaml.safe_dump(content.get("network")))
    assert names_network_class(arguments) == is_class


def test_sizes_give_way_to_a_class() -> None:
    assert leave_out_sizes({"data": 1, **SIZES}) == {"data": 1}
    for other in ({"data": 1, **CLASS}, {"network": "nets.Plain"}, "nets.Plain", None, [SIZES]):
        assert leave_out_sizes(other) == other
