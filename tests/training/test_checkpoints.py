"""Which checkpoints a training goes on from: whole ones, of its own model; and no code is run from any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.commands.fit import FitCLI
from probediff.runs.folder import RunFolder
from probediff.training.checkpoints import load_checkpoint, newest_loadable
from tests.conftest import TINY_RUN

ROOT = Path(__file__).parents[2]
COMMAND = ["--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN]


@pytest.fixture(scope="module")
def cli(tiny_run: Path) -> Iterator[FitCLI]:
    """Trainer and module of a run, as a start builds them."""
    with ExitStack() as owning:
        yield FitCLI([*COMMAND, "--run_dir", str(tiny_run), "--resume=auto"], owning)


def test_broken_and_foreign_checkpoints_are_passed_over(tiny_run: Path, cli: FitCLI, tmp_path: Path) -> None:
    good = RunFolder(tiny_run).checkpoint_path(4)
    (tmp_path / good.name).write_bytes(good.read_bytes())
    (tmp_path / "step=00000009.ckpt").write_bytes(good.read_bytes()[:1000])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "step=00000010.ckpt")
    foreign = torch.load(good, weights_only=True)
    foreign["state_dict"] = {"other": torch.zeros(1)}
    torch.save(foreign | {"global_step": 11}, tmp_path / "step=00000011.ckpt")
    (tmp_path / "step=00000012.ckpt.partial").touch()
    with pytest.warns(UserWarning) as caught:
        assert newest_loadable(tmp_path, cli.trainer, cli.model) == tmp_path / good.name
    messages = [str(warning.message) for warning in caught if "passing over" in str(warning.message)]
    assert ["00000011" in messages[0], "00000010" in messages[1], "00000009" in messages[2]] == [True] * 3
    assert "of another model" in messages[0]
    assert "no checkpoint of a training" in messages[1]
    assert "cannot be read" in messages[2]


def without(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Remove what lies under these keys of a checkpoint."""

    def remove(checkpoint: dict[str, Any]) -> None:
        part: Any = checkpoint
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]

    return remove


def replacing(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    """Put ``value`` under these keys of a checkpoint."""

    def replace(checkpoint: dict[str, Any]) -> None:
        part: Any = checkpoint
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return replace


@pytest.mark.parametrize(
    "damage",
    [
        without("optimizer_states", 0),
        without("optimizer_states", 0, "state", 3),
        without("optimizer_states", 0, "param_groups"),
        replacing(torch.zeros(2), "optimizer_states", 0, "state", 0, "exp_avg"),
        without("loops", "fit_loop", "epoch_loop.batch_progress"),
        replacing("nine", "loops", "fit_loop", "epoch_progress", "total", "ready"),
        replacing(None, "loops"),
        replacing([1, 2], "callbacks"),
        without("callbacks", "Probing", "loss_count"),
        without("epoch"),
        replacing(3, "global_step"),
        replacing(torch.zeros(2, 2), "state_dict", "eps_model.unet.out.2.bias"),
        without("pytorch-lightning_version"),
        replacing("text", "pytorch-lightning_version"),
        replacing({}, "lr_schedulers"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_passed_over(
    damage: Callable[[dict[str, Any]], None], tiny_run: Path, cli: FitCLI, tmp_path: Path
) -> None:
    """Whole files with wrong content: KeyError, IndexError, TypeError, or nothing at all in Lightning."""
    for step in (2, 4):
        (tmp_path / f"step={step:08d}.ckpt").write_bytes(RunFolder(tiny_run).checkpoint_path(step).read_bytes())
    checkpoint = torch.load(tmp_path / "step=00000004.ckpt", weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "step=00000004.ckpt")
    with pytest.warns(UserWarning, match="passing over a checkpoint: .*step=00000004.ckpt"):
        assert newest_loadable(tmp_path, cli.trainer, cli.model) == tmp_path / "step=00000002.ckpt"


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("pwned",)


def test_a_malicious_checkpoint_runs_nothing(cli: FitCLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, "step=00000001.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(Path("step=00000001.ckpt"), cli.trainer, cli.model)
    assert not Path("pwned").exists()
