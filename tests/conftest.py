"""Tiny runs that take a second, and the switch to the real images."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from probediff.callbacks import (
    AssignmentAccuracy,
    CheckpointSimilarity,
    FixedNoiseGeneration,
    InversionAngles,
    PixelCorrelation,
    ProbeSchedule,
    Probing,
)
from probediff.commands.fit import fit as fit_command
from probediff.data import Digits
from probediff.denoisers import UNet
from probediff.probing import PassSettings
from probediff.training.module import DiffusionModule

ROOT = Path(__file__).parents[1]

# Untrained networks produce denormals, which slow a CPU down; the command line does the same.
torch.set_flush_denormal(True)
# Tiny tensors are faster on one core, and pytest uses the others.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")

#: Files whose tests take longest: they begin first, or the other processes would wait for them at the end.
LONGEST = (
    *("commands/test_resume.py", "commands/test_processes.py", "commands/test_endings.py", "runs/test_tracking.py"),
    *("commands/test_identity_of_results.py", "commands/test_identity_of_runs.py", "commands/test_signals.py"),
    *(
        "commands/test_going_on.py",
        "commands/test_monitoring.py",
        "commands/test_probe.py",
        "report/test_page.py",
        "test_old_run.py",
    ),
)

#: What the ``fit`` of tests trains on: `make gpu-proof` sets it to the GPU for some of them.
ACCELERATOR = os.environ.get("PROBEDIFF_TEST_ACCELERATOR", "cpu")
#: How near numbers are that come from differently grouped sums: a GPU chooses its algorithms by the size of the batch.
CLOSE = 1e-5 if ACCELERATOR == "cpu" else 1e-3
if ACCELERATOR != "cpu":
    # Its convolutions would round to TF32, and be compared with float32 on the CPU.
    torch.backends.cudnn.allow_tf32 = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file stay together, for they share runs; the longest files come first."""
    order = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: some tests wait for others."""
    return (os.cpu_count() or 1) + 1


def tiny_module(seed: int = 0, **options: Any) -> DiffusionModule:
    """A network of 12 thousand parameters with dropout and 40 timesteps for the 8x8 digits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(
            image_size=8,
            in_channels=1,
            out_channels=2,
            channels=8,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
            num_heads=2,
            dropout=0.1,
        )
    defaults = {"num_train_timesteps": 40, "learning_rate": 2e-3, "ema_rates": [0.9], "seed": seed}
    return DiffusionModule(network, **(defaults | options))


def all_probes() -> list[L.Callback]:
    return [
        FixedNoiseGeneration(num_shown=9),
        InversionAngles(num_shown=4),
        AssignmentAccuracy(num_hubs=4),
        PixelCorrelation(),
        CheckpointSimilarity(num_directions=3),
    ]


def tiny_settings(**options: Any) -> PassSettings:
    return PassSettings(**({"num_samples": 17, "num_steps": 8, "batch_size": 8} | options))


Fit = Callable[..., tuple[DiffusionModule, L.Trainer]]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Train a tiny module for ``max_steps`` with the given probes in ``tmp_path/run``."""

    def run(
        probes: list[L.Callback] | None = None,
        module: DiffusionModule | None = None,
        settings: PassSettings | None = None,
        schedule: ProbeSchedule | None = None,
        keep_full_checkpoints: int | None = None,
        **trainer_options: Any,
    ) -> tuple[DiffusionModule, L.Trainer]:
        module = module or tiny_module()
        callbacks: list[L.Callback] = []
        if probes is not None:
            due = schedule or ProbeSchedule(steps=(2,))
            callbacks = [Probing(due, settings or tiny_settings(), False, keep_full_checkpoints), *probes]
        options = {
            "accelerator": ACCELERATOR,
            "deterministic": None if ACCELERATOR == "cpu" else "warn",
            "max_steps": 5,
            "logger": False,
            "default_root_dir": tmp_path / "run",
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "callbacks": callbacks,
        }
        trainer = L.Trainer(**(options | trainer_options))
        trainer.fit(module, datamodule=Digits(batch_size=16))
        return module, trainer

    return run


@pytest.fixture
def real_data() -> Path:
    """Folder of the real images, from PROBEDIFF_DATA."""
    if not os.environ.get("PROBEDIFF_DATA"):
        pytest.skip("PROBEDIFF_DATA does not name a folder of real images")
    return Path(os.environ["PROBEDIFF_DATA"])


TINY_RUN = [
    "--network.channels=8",
    "--model.num_train_timesteps=40",
    "--trainer.max_steps=4",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--wandb.mode=disabled",
    "--probing.progress=false",
    "--probing.schedule.steps=[2]",
    "--probing.settings.num_samples=24",
    "--probing.settings.num_steps=8",
    "--probing.settings.batch_size=10",
    "--checkpoint_similarity.num_directions=3",
    # Its own tests have it.
    "--denoiser_structure.enabled=false",
]


def close_to(values: dict[str, float | None]) -> Any:
    """``values`` of a record within 1e-5; what was not finite must be missing on both sides."""
    return pytest.approx({k: v for k, v in values.items() if v is not None}, rel=1e-5, abs=1e-5)


def finite(values: dict[str, float | None]) -> dict[str, float]:
    """The values of a record that there are."""
    return {key: value for key, value in values.items() if value is not None}


def make_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A copy, of this process alone, of a folder that one of pytest's processes makes for all of them."""
    own = tmp_path_factory.mktemp(name) / name
    # The processes' folders lie side by side in that of the session.
    session = own.parents[2] if "PYTEST_XDIST_WORKER" in os.environ else own.parents[1]
    with (session / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = session / f"{name}-made"
        if not made.exists():
            make(own)
            shutil.copytree(own, session / f"{name}-new").rename(made)
            return own
    return Path(shutil.copytree(made, own))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the command on the digits, with checkpoints at steps 0, 2 and 4 and T = 40."""

    def make(path: Path) -> None:
        assert fit_command(["--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN, "--run_dir", str(path)]) == 0

    return make_once(tmp_path_factory, "run", make)
