"""How modules of others' styles are described in a run's folder, and made again from it and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from probediff.models import ProbeModel, wrap_network
from probediff.models.own_module import OwnRecipe, describe_module
from probediff.schedule import NoiseSchedule


class Base(L.LightningModule):
    def __init__(self, width: int = 2, rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Conv2d(1, width, 1))

    def probe_model(self, weights: str, ema_rate: float | None) -> ProbeModel:
        return wrap_network(self.network, NoiseSchedule.cosine(4), (1, 4, 4))


class Narrower(Base):
    """Its base class saves arguments that it does not have."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(width)


class Notes(Base):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"note": "no argument"})


class Whole(Base):
    def __init__(self, config: dict[str, Any]) -> None:
        super(Base, self).__init__()
        self.save_hyperparameters(config)
        self.network = nn.Sequential(nn.Conv2d(1, config["width"], 1))


class Late(Base):
    def __init__(self, width: int = 2) -> None:
        super(Base, self).__init__()
        self.save_hyperparameters()
        self.network = None  # type: ignore[assignment]

    def configure_model(self) -> None:
        if self.network is None:
            self.network = nn.Sequential(nn.Conv2d(1, self.hparams["width"], 1))


class Partial(Base):
    """Its checkpoints leave out what is loaded from elsewhere, under other names."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(width)
        self.features = nn.Linear(1, 1)
        self.strict_loading = False

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        return {f"saved.{name}": value for name, value in self.network.state_dict().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        renamed = {name.replace("saved", "network"): value for name, value in checkpoint["state_dict"].items()}
        checkpoint["state_dict"] = renamed


def save(module: L.LightningModule, path: Path) -> Path:
    checkpoint = {"state_dict": module.state_dict(), "global_step": 3, "optimizer_states": []}
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (Base(3), {"width": 3, "rate": 1e-3}),
        (Narrower(3), {"width": 3}),
        (Notes(), {}),
        (Whole({"width": 3}), {"config": {"width": 3}}),
        (Late(3), {"width": 3}),
        (Partial(3), {"width": 3}),
        (Base(3).double(), {"width": 3, "rate": 1e-3}),
        (Base(3).bfloat16(), {"width": 3, "rate": 1e-3}),
    ],
)
def test_a_module_is_made_again_as_it_was(module: Base, arguments: dict[str, Any], tmp_path: Path) -> None:
    module.configure_model()
    described = describe_module(module)
    assert described["init_args"] == arguments
    loaded = OwnRecipe(type(module), arguments, "raw", None).load(save(module, tmp_path / "a.ckpt"))
    assert loaded.digest == module.probe_model("raw", None).digest and loaded.step == 3


class InSetup(Late):
    configure_model = L.LightningModule.configure_model

    def setup(self, stage: str) -> None:
        Late.configure_model(self)


class Failing(Base):
    def __init__(self) -> None:
        super().__init__()
        raise KeyError("DATA")


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (InSetup, {}, r"got 2 differences.*must be made in __init__ or configure_model.*Probing\(loader=...\)"),
        (Failing, {}, r"Failing must be made of init_args in the config.yaml of its run, got KeyError: 'DATA'; "),
        (Base, {"depth": 3}, r"Base must be made of init_args in the config.yaml of its run, got .*depth"),
    ],
)
def test_what_cannot_be_made_again_is_one_error(
    cls: type[Base], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        OwnRecipe(cls, arguments, "raw", None).load(save(Base(), tmp_path / "a.ckpt"))


def test_a_class_within_another_cannot_be_imported() -> None:
    class Inner(Base):
        pass

    Inner.__qualname__ = "Outer.Inner"
    assert "where to import Outer.Inner from" in describe_module(Inner())["unknown"]
